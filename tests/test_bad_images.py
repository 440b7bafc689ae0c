"""Unusual and broken images are decoded correctly, or skipped with a fixed reason."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from understudy.data import ArraySource, RecordSource, Unreadable, open_source
from understudy.data.formats import decode as decoder
from understudy.data.formats.decode import (
    DAMAGED,
    EMPTY,
    NO_RANGE,
    NOT_AN_IMAGE,
    TOO_LARGE,
    decode,
    read_header,
    upright,
)
from understudy.data.source import ImageHeader
from understudy.errors import UnderstudyError

ROOM = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    out = io.BytesIO()
    image.save(out, kind, **options)
    out.seek(0)
    return out


def back(image: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    return np.asarray(decode(stored(image, kind, **options)))


def reason(data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        decode(io.BytesIO(data))
    return str(caught.value)


def png_of(width: int, height: int) -> bytes:
    """A PNG with this size in its header and next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    about = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + body + chunk(b"IEND", b"")


def test_cmyk() -> None:
    red = Image.new("CMYK", (9, 9), (0, 255, 255, 0))
    assert back(red, "TIFF")[0, 0].tolist() == [255, 0, 0]
    assert back(red, "JPEG").shape == (9, 9, 3)


def test_palette_and_its_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert back(image).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert back(image, transparency=0).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_transparency_is_blended_with_white() -> None:
    assert back(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).tolist() == [[[255, 255, 255]]]
    assert back(Image.new("RGBA", (1, 1), (200, 0, 0, 255))).tolist() == [[[200, 0, 0]]]
    half = back(Image.new("LA", (1, 1), (0, 128)))
    assert half.ndim == 2
    assert abs(int(half[0, 0]) - 127) <= 1


def test_sixteen_bits_are_scaled() -> None:
    wide = np.array([[0, 257, 32768, 65535]], np.uint16)
    image = Image.fromarray(wide)
    assert image.mode == "I;16"
    assert back(image).tolist() == [[0, 1, 128, 255]]
    assert back(image, "TIFF").tolist() == [[0, 1, 128, 255]]
    assert np.asarray(upright(Image.fromarray(wide.astype(np.int32)))).tolist() == [[0, 1, 128, 255]]
    assert read_header(stored(image)).gray


def test_one_bit_and_one_pixel() -> None:
    assert back(Image.new("1", (3, 2), 1)).tolist() == [[255] * 3] * 2
    assert back(Image.new("RGB", (1, 1), (1, 2, 3))).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "lime")]
    data = stored(frames[0], kind, save_all=True, append_images=frames[1:], duration=40)
    red, green, blue = np.asarray(decode(data))[0, 0].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    # a white corner at the top left of the upright image, stored as a rotated camera would
    image = Image.new("RGB", (48, 32))
    image.paste("white", (0, 0, 16, 16))
    stores = [None, None, 0, 3, 1, 5, 2, 6, 4]  # the transposition that undoes each orientation
    undo = stores[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = image if undo is None else image.transpose(Image.Transpose(undo))
    data = stored(turned, kind, exif=exif)
    pixels = np.asarray(decode(data)).astype(int)
    assert pixels.shape == (32, 48, 3)
    assert pixels[:14, :14].min() > 200
    assert pixels[18:, 18:].max() < 60
    data.seek(0)
    if kind != "PNG":
        assert read_header(data) == ImageHeader(48, 32, gray=False)


def test_broken_exif_is_ignored() -> None:
    assert back(Image.fromarray(ROOM), "JPEG", exif=b"Exif\0\0nonsense").shape == ROOM.shape


def test_broken_files() -> None:
    whole = stored(Image.fromarray(ROOM), "JPEG").getvalue()
    assert reason(b"") == EMPTY
    assert reason(b"I am a text, not a picture.") == NOT_AN_IMAGE
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == NOT_AN_IMAGE
    assert reason(whole[: len(whole) // 2]) == DAMAGED
    assert reason(whole[:10]) == DAMAGED
    for kind in ("PNG", "GIF", "TIFF", "WEBP", "BMP"):
        data = stored(Image.fromarray(ROOM), kind).getvalue()
        assert reason(data[: len(data) // 3]) == DAMAGED, kind
    with pytest.raises(Unreadable, match=NO_RANGE):
        upright(Image.new("F", (2, 2)))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs() -> None:
    assert reason(png_of(10_000, 10_000)) == TOO_LARGE  # Pillow would only warn
    assert reason(png_of(60_000, 60_000)) == TOO_LARGE


def corrupted(root: Path, *, same_size: bool) -> Path:
    """Two classes of eight JPEGs, with one file of every fault in the first."""
    for c in "ab":
        (root / "train" / c).mkdir(parents=True)
        for i in range(8):
            size = (20, 20) if same_size else (20 + i, 20)
            Image.fromarray(ROOM).resize(size).save(root / "train" / c / f"{i}.jpg")
        (root / "test" / c).mkdir(parents=True)
        Image.fromarray(ROOM).resize((20, 20)).save(root / "test" / c / "0.jpg")
    whole = (root / "train/b/0.jpg").read_bytes()
    faults = {"zero": b"", "text": b"just words here", "cut": whole[:-40]}
    for name, data in (faults | {"bomb": png_of(60_000, 60_000)}).items():
        (root / "train/a" / f"{name}.jpg").write_bytes(data)
    return root


def test_unreadable_files_are_skipped(tmp_path: Path) -> None:
    train = open_source(corrupted(tmp_path, same_size=True)).train
    assert isinstance(train, ArraySource)
    assert len(train) == 16 == len(train.inputs) == len(train.targets if train.targets is not None else ())
    assert dict(train.skipped) == {
        "train/a/zero.jpg": EMPTY,
        "train/a/text.jpg": NOT_AN_IMAGE,
        "train/a/cut.jpg": DAMAGED,
        "train/a/bomb.jpg": TOO_LARGE,
    }


def test_records_are_checked_by_their_headers(tmp_path: Path) -> None:
    train = open_source(corrupted(tmp_path, same_size=False)).train
    assert isinstance(train, RecordSource)
    assert len(train) == 17 == len(train.records)
    assert {name for name, _ in train.skipped} == {f"train/a/{n}.jpg" for n in ("zero", "text", "bomb")}
    cut = next(record for record in train.records if record.name.endswith("cut.jpg"))
    with pytest.raises(Unreadable, match=DAMAGED):
        cut.read()
    (tmp_path / "train/b/3.jpg").unlink()
    gone = next(record for record in train.records if record.name == "train/b/3.jpg")
    with pytest.raises(Unreadable, match="cannot be opened"):
        gone.read()


def test_no_readable_images(tmp_path: Path) -> None:
    for c in "ab":
        (tmp_path / c).mkdir()
        for i in range(3):
            (tmp_path / c / f"{i}.png").write_bytes(b"" if i else b"words and nothing else")
    with pytest.raises(UnderstudyError, match=r"no image in the train split of .* can be read") as caught:
        open_source(tmp_path)
    assert f"{EMPTY}" in str(caught.value)
    Image.new("L", (4, 4)).save(tmp_path / "a/good.png")
    Image.new("L", (4, 4)).save(tmp_path / "a/good2.png")
    with pytest.raises(UnderstudyError, match="no training image of class 'b'"):
        open_source(tmp_path)


def test_a_damaged_member_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    good = stored(Image.fromarray(ROOM), "JPEG").getvalue()
    with zipfile.ZipFile(path, "w") as file:
        for name in ("train/a/1", "train/a/2", "train/b/1", "test/b/1"):
            file.writestr(f"{name}.jpg", good)
    data = bytearray(path.read_bytes())
    at = data.index(good) + len(good) // 2
    data[at : at + 4] = b"\xff\xd9\xff\xd9"
    path.write_bytes(data)
    train = open_source(path).train
    assert train.skipped == (("train/a/1.jpg", DAMAGED),)


def test_gray_images_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    for i, mode in enumerate(("L", "1", "LA", "I;16")):
        (tmp_path / "train" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.full((5, 5), 65535, np.uint16)) if mode == "I;16" else None
        (image or Image.new(mode, (5, 5), 1)).save(tmp_path / "train" / "ab"[i % 2] / f"{i}.png")
    assert open_source(tmp_path).train.shape == (1, 5, 5)
    Image.new("CMYK", (5, 5)).save(tmp_path / "train/a/c.jpg")
    assert open_source(tmp_path).train.shape == (3, 5, 5)


def test_images_of_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG is decoded at half its size, as its header says; other formats are refused."""
    monkeypatch.setattr(decoder, "_LIMIT", 60 * 40 - 1)
    room = Image.fromarray(ROOM)
    for progressive in (False, True):
        data = stored(room, "JPEG", progressive=progressive)
        assert read_header(data) == ImageHeader(30, 20, gray=False)
        data.seek(0)
        assert decode(data).size == (30, 20)
    assert reason(stored(room).getvalue()) == TOO_LARGE
    assert back(room.resize((59, 40))).shape == (40, 59, 3)


def test_large_images_are_converted_by_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    glass = Image.fromarray(ROOM).convert("RGBA")
    glass.putalpha(Image.fromarray(ROOM[..., 0]))
    palette = Image.fromarray(ROOM).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.info["transparency"] = 3
    wide = Image.fromarray((ROOM[..., 0].astype(np.uint16) << 8) + ROOM[..., 1])
    whole = [np.asarray(upright(image)) for image in (glass, glass.convert("LA"), palette, wide)]
    monkeypatch.setattr(decoder, "_STRIP", 7 * 60)
    strips = [np.asarray(upright(image)) for image in (glass, glass.convert("LA"), palette, wide)]
    assert all(np.array_equal(a, b) for a, b in zip(whole, strips, strict=True))
    assert [x.shape for x in whole] == [(40, 60, 3), (40, 60), (40, 60, 3), (40, 60)]
