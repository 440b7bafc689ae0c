"""Hostile images, folders and archives: a sentence or a counted reason within seconds, and bounded memory."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from understudy.data import RecordSource, Source, Unreadable, open_source
from understudy.data.formats import decode
from understudy.errors import UnderstudyError

SECONDS, BYTES = 10, 500 * 2**20
REASONS = {
    value
    for name, value in vars(decode).items()
    if name.isupper() and isinstance(value, str) and not name.startswith("_")
}


def image(side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))


def encoded(kind: str, picture: Image.Image | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    (picture or image()).save(out, kind, **options)
    return out.getvalue()


def cut(kind: str, share: float) -> Callable[[], bytes]:
    """A file that ends after a share of its bytes."""

    def make() -> bytes:
        data = encoded(kind)
        return data[: max(1, int(len(data) * share))]

    return make


def zeroed(kind: str, share: float) -> Callable[[], bytes]:
    """A file of the right length, of which only a share of the bytes was written."""

    def make() -> bytes:
        data = encoded(kind)
        return data[: int(len(data) * share)].ljust(len(data), b"\0")

    return make


def chunk(kind: bytes, data: bytes, *, claimed: int | None = None) -> bytes:
    size = len(data) if claimed is None else claimed
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"\0" * 100, *between: bytes, depth: int = 8, color: int = 2) -> bytes:
    about = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = chunk(b"IHDR", about), *between, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 154, 0, 0, 54, 40, width, height, 1, 24, 0, 100, 0, 0, 0, 0)
        + bytes(100)
    )


def gif(width: int, height: int) -> bytes:
    data = bytearray(encoded("GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def tiff(width: int, height: int, **tags: int) -> bytes:
    """A TIFF of one strip with no data behind its header."""
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 100}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + bytes(4)


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_2000(width: int, height: int) -> bytes:
    sizes = struct.pack(">8I", width, height, 0, 0, width, height, 0, 0)
    return b"\xff\x4f\xff\x51\0\x2f\0\0" + sizes + b"\0\3" + b"\7\1\1" * 3


def many_scans() -> bytes:
    """Each scan of a progressive JPEG goes over all pixels and takes a few bytes."""
    data = encoded("JPEG", Image.new("RGB", (3000, 3000)), progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * 3000 + data[-2:]


def after_exif(payload: bytes) -> bytes:
    data = encoded("JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


UNREADABLE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "one byte": lambda: b"\xff",
    "zeros": lambda: bytes(5000),
    "ones": lambda: b"\xff" * 5000,
    "noise": lambda: np.random.default_rng(0).bytes(5000),
    "text": lambda: b"404 Not Found\n" * 20,
    "HTML": lambda: b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "PDF": lambda: b"%PDF-1.7\n" + bytes(100),
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PSD": lambda: b"8BPS\0\1" + bytes(200),
    "ZIP": lambda: b"PK\3\4" + bytes(200),
    "LFS pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "HEIF brand, no boxes": lambda: b"\0\0\0\x18ftypheic" + bytes(300),
    "AVIF brand, no boxes": lambda: b"\0\0\0\x18ftypavif" + bytes(300),
    "video": lambda: b"\0\0\0\x18ftypisom" + bytes(300),
    **{
        f"{kind} cut at {share:.0%}": cut(kind, share)
        for kind in ("JPEG", "PNG", "GIF", "WEBP")
        for share in (0.02, 0.5, 0.9)
    },
    **{f"{kind} cut at half": cut(kind, 0.5) for kind in ("TIFF", "BMP", "PPM", "AVIF", "JPEG2000")},
    **{f"{kind} half written": zeroed(kind, 0.5) for kind in ("PNG", "GIF")},
    "88 megapixels": lambda: png(11_000, 8_000, color=6),
    "3.6 gigapixels": lambda: png(60_000, 60_000),
    "PNG of 2^31 - 1 a side": lambda: png(2**31 - 1, 2**31 - 1),
    "PNG of one row of 60 million": lambda: png(60_000_000, 1),
    "PNG of no pixels": lambda: png(0, 0),
    "PNG with the size of another": lambda: png(6_000, 6_000),
    "PNG that claims 2 GB of text": lambda: png(9, 9)[:33] + chunk(b"tEXt", b"a\0b", claimed=2**31 - 1),
    "PNG with 100 MB of compressed text": lambda: png(
        9, 9, b"\0" * 300, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * 2**20)))
    ),
    "PNG with a wrong checksum": lambda: encoded("PNG")[:50] + b"????" + encoded("PNG")[54:],
    "PNG with 16 bits of a palette": lambda: png(9, 9, depth=16, color=3),
    "GIF of 65535 a side": lambda: gif(65_535, 65_535),
    "BMP of 65535 a side": lambda: bmp(65_535, 65_535),
    "BMP with the size of another": lambda: bmp(7_000, 7_000),
    "BMP of negative size": lambda: bmp(-100, 100),
    "PPM with the size of another": lambda: b"P6 7000 7000 255\n" + bytes(100),
    "PPM of 10^9 a side": lambda: b"P6 1000000000 1000000000 255\n" + bytes(100),
    "PPM with an endless number": lambda: b"P6 " + b"1" * 10**6,
    "JPEG of 65500 a side": lambda: jpeg_of(65_500, 65_500),
    "JPEG with 3000 scans": many_scans,
    "TIFF of 10^6 a side": lambda: tiff(10**6, 10**6),
    "TIFF with the size of another": lambda: tiff(6_000, 6_000),
    "TIFF with a strip of 4 GB": lambda: tiff(100, 100, t279=2**32 - 1),
    "TIFF of floats": lambda: encoded("TIFF", Image.new("F", (40, 40))),
    "WEBP that claims 4 GB": lambda: b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(100),
    "JPEG 2000 of 10^6 a side": lambda: jpeg_2000(10**6, 10**6),
}  # fmt: skip

READABLE: dict[str, Callable[[], bytes]] = {
    "TIFF whose directory is itself": lambda: tiff(10, 10)[:-4] + struct.pack("<I", 8),
    "EXIF that is nonsense": lambda: after_exif(b"Exif\0\0II*\0" + b"\xff" * 40),
    "EXIF orientation of 99": lambda: encoded("JPEG", exif=b"Exif\0\0" + tiff(1, 1, t274=99)),
    "JPEG that is a ZIP too": lambda: encoded("JPEG") + b"PK\5\6" + bytes(18),
    "PNG that is HTML too": lambda: encoded("PNG") + b"<script>alert(1)</script>",
    "GIF whose comment is a program": lambda: encoded("GIF", comment=b"*/=1;alert(1);/*"),
    "animation of 100 frames": lambda: encoded("GIF", save_all=True, append_images=[image()] * 100),
    "ICC profile that is nonsense": lambda: encoded("JPEG", icc_profile=b"\xff" * 60_000),
}
SAMPLE = {
    "empty", "text", "JPEG cut at 50%", "PNG cut at 90%", "88 megapixels",
    "PPM of 10^9 a side", "TIFF with a strip of 4 GB", "TIFF of floats", "JPEG with 3000 scans",
    "EXIF that is nonsense", "JPEG that is a ZIP too",
}  # fmt: skip


def cases(names: dict[str, Callable[[], bytes]]) -> list[object]:
    return [
        pytest.param(make, id=name, marks=[] if name in SAMPLE else pytest.mark.campaign)
        for name, make in names.items()
    ]


@contextmanager
def bounded() -> Iterator[None]:
    """Assert that what is done takes seconds, and less than 500 MB more than there were."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def peak() -> int:
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    measured = reset.exists()
    if measured:
        reset.write_text("5")  # the peak is now the present size
    before, start = peak() if measured else 0, time.monotonic()
    yield
    assert time.monotonic() - start < SECONDS
    assert not measured or peak() - before < BYTES


def with_good_images(root: Path) -> Path:
    """Good images for training and testing, in two classes."""
    for part in ("train", "test"):
        for c in ("cat", "dog"):
            (root / part / c).mkdir(parents=True, exist_ok=True)
            for i in range(2):
                image(20 + i).save(root / part / c / f"{i}.png")
    return root


def read_all(source: Source | None) -> dict[str, str]:
    """The reason for each image that is skipped when its header is read, or when it is decoded."""
    if source is None:
        return {}
    assert isinstance(source, RecordSource)
    found = dict(source.skipped)
    for record in source.records:
        try:
            assert record.read().mode in ("L", "RGB")
        except Unreadable as reason:
            found[record.name] = str(reason)
    return found


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("make", cases(UNREADABLE))
def test_an_unreadable_image_is_counted_by_reason(tmp_path: Path, make: Callable[[], bytes]) -> None:
    root, data = with_good_images(tmp_path), make()
    for part in ("train", "test"):
        (root / part / "cat" / "odd.jpg").write_bytes(data)
    with bounded():
        splits = open_source(root)
        found = read_all(splits.train) | read_all(splits.test)
    assert found.keys() == {"train/cat/odd.jpg", "test/cat/odd.jpg"}
    assert set(found.values()) <= REASONS


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", cases(READABLE))
def test_an_odd_image_is_read(tmp_path: Path, make: Callable[[], bytes]) -> None:
    root = with_good_images(tmp_path)
    (root / "train/cat/odd.jpg").write_bytes(make())
    with bounded():
        assert read_all(open_source(root).train) == {}


# Folders


def outcome(path: Path) -> str | set[str]:
    """The sentence with which opening is refused, or the reasons for which images are skipped."""
    try:
        splits = open_source(path)
        return {*read_all(splits.train).values(), *read_all(splits.test).values()}
    except UnderstudyError as error:
        return str(error)


def check_outcome(path: Path) -> None:
    with bounded():
        found = outcome(path)
    if isinstance(found, str):
        assert "\n" not in found
        assert len(found) < 2_000
    else:
        assert found <= REASONS


def pipes(root: Path) -> None:
    for name in ("pipe.png", "pipe", "pipe.csv"):
        os.mkfifo(root / "train/cat" / name)


def devices(root: Path) -> None:
    for name in ("zero", "full", "random"):
        (root / "train/cat" / f"{name}.png").symlink_to(f"/dev/{name}")


def loops(root: Path) -> None:
    (root / "train/cat/self").symlink_to("self")
    (root / "train/cat/itself.png").symlink_to("itself.png")
    (root / "train/cat/up").symlink_to(root, target_is_directory=True)


def dangling(root: Path) -> None:
    (root / "train/cat/gone.png").symlink_to(root / "nowhere")


def multiplying_links(root: Path) -> None:
    """Two links in each folder to the next: 2^30 ways to the last."""
    for depth in range(30):
        (root / "links" / str(depth)).mkdir(parents=True)
    for depth in range(29):
        for name in "ab":
            (root / "links" / str(depth) / name).symlink_to(root / "links" / str(depth + 1), target_is_directory=True)
    (root / "train/cat/links").symlink_to(root / "links/0", target_is_directory=True)


def deep(root: Path) -> None:
    folder = root / "train/cat"
    for _ in range(100):
        folder = folder / "d"
        folder.mkdir()


def odd_names(root: Path) -> None:
    for name in (
        b"caf\xe9.png",
        b"new\nline.png",
        b"-rf.png",
        b"\xff\xfe.png",
        b"$(reboot).png",
        b"a\tb.png",
        b"<b>.png",
    ):
        (root / "train/cat" / os.fsdecode(name)).write_bytes(encoded("PNG", image(20)))


def images_that_are_folders(root: Path) -> None:
    (root / "train/cat/a.png").mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        pipes,
        *(pytest.param(each, marks=pytest.mark.campaign)
          for each in (multiplying_links, devices, loops, dangling, deep, odd_names, images_that_are_folders)),
    ],
)  # fmt: skip
def test_a_hostile_folder(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    root = with_good_images(tmp_path)
    spoil(root)
    check_outcome(root)


# Archives


def zipped(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of these members, as (name, data), beside good ones."""
    with zipfile.ZipFile(path, "w", method) as file:
        for part in ("train", "test"):
            for c in ("cat", "dog"):
                for i in range(2):
                    file.writestr(f"{part}/{c}/{i}.png", encoded("PNG", image(20 + i)))
        for name, data in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            file.writestr(info, data)
    return path


def patched(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def bomb(path: Path) -> Path:
    """A PNG with a chunk of 1 GB, in 1 MB."""
    with (
        zipfile.ZipFile(zipped(path), "a", zipfile.ZIP_DEFLATED) as file,
        file.open("train/cat/bomb.png", "w") as member,
    ):
        member.write(png(9, 9)[:33] + struct.pack(">I", 2**30) + b"tEXt")
        for _ in range(1024):
            member.write(bytes(2**20))
    return path


def encrypted(path: Path) -> Path:
    def change(data: bytearray) -> None:
        at = data.rindex(b"PK\1\2")
        data[at + 8] |= 1

    return patched(zipped(path, ("train/cat/x.png", encoded("PNG"))), change)


def lying_size(path: Path) -> Path:
    def change(data: bytearray) -> None:
        at = data.rindex(b"PK\1\2")
        data[at + 24 : at + 28] = struct.pack("<I", 10**7)

    return patched(zipped(path, ("train/cat/x.png", encoded("PNG"))), change)


def lying_offset(path: Path) -> Path:
    def change(data: bytearray) -> None:
        at = data.rindex(b"PK\1\2")
        data[at + 42 : at + 46] = struct.pack("<I", 7)

    return patched(zipped(path, ("train/cat/x.png", encoded("PNG"))), change)


def lying_count(path: Path) -> Path:
    def change(data: bytearray) -> None:
        at = data.rindex(b"PK\5\6")
        data[at + 8 : at + 20] = b"\xff" * 12

    return patched(zipped(path), change)


def unknown_method(path: Path) -> Path:
    def change(data: bytearray) -> None:
        at = data.rindex(b"PK\1\2")
        data[at + 10] = 99

    return patched(zipped(path, ("train/cat/x.png", encoded("PNG"))), change)


def garbled(path: Path) -> Path:
    def change(data: bytearray) -> None:
        at = data.index(b"train/cat/x.png") + 30
        data[at : at + 40] = b"\xff" * 40

    return patched(zipped(path, ("train/cat/x.png", encoded("PNG"))), change)


def raw(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def cut_zip(path: Path) -> Path:
    data = zipped(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for part in ("train", "test"):
            for c in ("cat", "dog"):
                for i in range(2):
                    data = encoded("PNG", image(20 + i))
                    info = tarfile.TarInfo(f"{part}/{c}/{i}.png")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
        for info, data in members:
            file.addfile(info, io.BytesIO(data))
    return path


def linked(path: Path, kind: bytes, target: str) -> Path:
    info = tarfile.TarInfo("train/cat/x.png")
    info.type, info.linkname = kind, target
    return tarred(path, (info, b""))


def tar_member(name: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = 3
    return info, b"abc"


def cut_tar(path: Path, at: int) -> Path:
    data = tarred(path).read_bytes()
    path.write_bytes(data[:at])
    return path


def lying_tar(path: Path) -> Path:
    """A member that claims to be larger than the archive."""
    info = tarfile.TarInfo("train/cat/x.png")
    info.size = 2**40
    header = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(tarred(path).read_bytes().rstrip(b"\0") + bytes(512) + header)
    return path


X = ("train/cat/x.png", b"x")
ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "zip bomb": lambda at: bomb(at / "x.zip"),
    "zip with ..": lambda at: zipped(at / "x.zip", ("../../x.png", b"x")),
    "zip with .. and backslashes": lambda at: zipped(at / "x.zip", ("a\\..\\..\\x.png", b"x")),
    "zip with an absolute name": lambda at: zipped(at / "x.zip", ("/etc/x.png", b"x")),
    "zip with a drive": lambda at: zipped(at / "x.zip", ("C:\\x.png", b"x")),
    "zip with a name twice": lambda at: zipped(at / "x.zip", X, X),
    "zip with a name twice, once with backslashes": lambda at: zipped(at / "x.zip", X, ("train\\cat\\x.png", b"x")),
    "zip with a file that is a folder too": lambda at: zipped(at / "x.zip", X, ("train/cat/x.png/y.png", b"x")),
    "zip with an empty name": lambda at: zipped(at / "x.zip", ("", b"x")),
    "zip with a name of 60 KB": lambda at: zipped(at / "x.zip", ("a/" * 30_000 + "x.png", b"x")),
    "zip with a zero byte in a name": lambda at: zipped(at / "x.zip", ("train/cat/x\0.png", b"x")),
    "encrypted zip": lambda at: encrypted(at / "x.zip"),
    "zip that lies about a size": lambda at: lying_size(at / "x.zip"),
    "zip that lies about a place": lambda at: lying_offset(at / "x.zip"),
    "zip that lies about its directory": lambda at: lying_count(at / "x.zip"),
    "zip of an unknown method": lambda at: unknown_method(at / "x.zip"),
    "zip with garbled data": lambda at: garbled(at / "x.zip"),
    "zip cut at half": lambda at: cut_zip(at / "x.zip"),
    "zip within a zip": lambda at: zipped(at / "x.zip", ("train/cat/x.zip", zipped(at / "y.zip").read_bytes())),
    "LZMA zip": lambda at: zipped(at / "x.zip", X, method=zipfile.ZIP_LZMA),
    "zip that is text": lambda at: raw(at / "x.zip", b"404"),
    "tar with ..": lambda at: tarred(at / "x.tar", tar_member("../../x.png")),
    "tar with an absolute name": lambda at: tarred(at / "x.tar", tar_member("/etc/x.png")),
    "tar with a name twice": lambda at: tarred(at / "x.tar", tar_member(X[0]), tar_member(X[0])),
    "tar with a symbolic link": lambda at: linked(at / "x.tar", tarfile.SYMTYPE, "/etc/passwd"),
    "tar with a hard link": lambda at: linked(at / "x.tar", tarfile.LNKTYPE, "train/cat/0.png"),
    "tar with a device": lambda at: linked(at / "x.tar", tarfile.CHRTYPE, ""),
    "tar with a pipe": lambda at: linked(at / "x.tar", tarfile.FIFOTYPE, ""),
    "tar cut within an image": lambda at: cut_tar(at / "x.tar", 2_000),
    "tar cut within a header": lambda at: cut_tar(at / "x.tar", 4_096 + 100),
    "tar with a member of 1 TB": lambda at: lying_tar(at / "x.tar"),
    "empty tar": lambda at: raw(at / "x.tar", b""),
    "tar of zeros": lambda at: raw(at / "x.tar", bytes(10_240)),
}
EVERYDAY = {"zip with ..", "encrypted zip", "zip that lies about a place", "tar with a symbolic link"}


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name, marks=[] if name in EVERYDAY else pytest.mark.campaign)
     for name, make in ARCHIVES.items()],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_hostile_archive(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    before = sorted(file.name for file in tmp_path.parent.iterdir())
    check_outcome(path)
    assert sorted(file.name for file in tmp_path.parent.iterdir()) == before, "nothing is written"
