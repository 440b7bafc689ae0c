"""Kept images are what decoding gives each time, wherever they are kept; JPEGs are decoded no larger than needed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from batch_helpers import CPU, equal
from understudy.data import ArraySource, RecordSource
from understudy.data.augment import Augmentation
from understudy.data.crop import center_crop
from understudy.data.decoding import Decoding
from understudy.data.formats.decode import decode, halvings
from understudy.data.formats.records import FileRecord
from understudy.data.kept import Kept, keep
from understudy.data.loader import BatchLoader
from understudy.data.memory import free_memory
from understudy.data.source import Unreadable
from understudy.data.views import Views

VIEWS = Views(Augmentation(crop_scale=0.2, flip=True), 7)
GIB = 2**30


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordSource:
    """Twelve images of different sizes and formats; two cannot be read, one of them after its header."""
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [f"{number}.{('png', 'jpg', 'bmp')[number % 3]}" for number in range(12)]
    for number, name in enumerate(names):
        pixels = random.integers(0, 256, (40 + 13 * number, 60 + 7 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("L" if number == 4 else "RGB").save(folder / name)
    (folder / names[3]).write_bytes((folder / names[3]).read_bytes()[:500])
    (folder / names[7]).write_bytes(b"")
    records = [FileRecord(str(folder), name) for name in names]
    return RecordSource("photos", ("a", "b"), torch.arange(12) + 40, torch.arange(12) % 2, (3, 16, 16), records=records)


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where there is room."""
    if request.param == "memory" and not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory")
    monkeypatch.setattr("understudy.data.kept.free_memory", lambda: GIB if request.param == "memory" else 0)
    return request.param


def loader(source: RecordSource, workers: int = 0) -> BatchLoader:
    return BatchLoader(source, VIEWS, 5, 7, CPU, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_as_decoded_each_time(workers: int, place: str, photos: RecordSource) -> None:
    anew, kept, said = loader(photos), loader(photos, workers), []
    kept.keep_decoded(6, said.append)
    (line,) = said
    assert "12 decoded images are kept in " in line
    assert ("memory" in line) == (place == "memory")
    for epoch in (0, 1):
        equal(kept.epoch(epoch), anew.epoch(epoch))
    assert kept.skipped == anew.skipped
    assert set(kept.skipped.values()) == {"truncated or corrupt", "empty file"}


def test_nothing_is_decoded_twice(place: str, photos: RecordSource, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = FileRecord.read
    monkeypatch.setattr(FileRecord, "read", lambda self, least=0: (reads.append(self.relative), read(self, least))[1])
    batches = loader(photos)
    batches.keep_decoded(6, lambda line: None)
    assert sorted(reads) == sorted({*reads})
    assert len(reads) == 12
    reads.clear()
    list(batches.epoch(0))
    assert sorted(reads) == ["3.png", "7.jpg"], "those that cannot be read"


def test_gray_and_paired_images(place: str, photos: RecordSource) -> None:
    depth = replace(photos, shape=(1, 8, 8), modality="depth")
    paired = replace(photos, pairs={"depth": depth})
    anew, kept = loader(paired), loader(paired)
    kept.keep_decoded(6, lambda line: None)
    for a, b in zip(kept.epoch(0), anew.epoch(0), strict=True):
        assert isinstance(a.inputs, dict)
        assert isinstance(b.inputs, dict)
        assert all(torch.equal(a.inputs[name], b.inputs[name]) for name in ("image", "depth"))


@pytest.mark.parametrize(("steps", "world"), [(4, 1), (100, 2)])
def test_not_where_it_would_not_pay(steps: int, world: int, photos: RecordSource) -> None:
    """Each image is shown less than twice; or every process would keep its own."""
    said: list[str] = []
    batches = BatchLoader(photos, VIEWS, 5, 7, CPU, 0, world)
    batches.keep_decoded(steps, said.append)
    assert said == []
    assert "decoder" not in vars(batches)


def test_arrays_are_in_memory_already(small_images: ArraySource) -> None:
    said: list[str] = []
    BatchLoader(small_images, VIEWS, 5, 7, CPU).keep_decoded(100, said.append)
    assert said == []


# ---- files


def kept_on_disk(source: RecordSource) -> tuple[Kept, str]:
    """The kept images of a source, and what is said, where memory has no room."""
    said: list[str] = []
    decoding = Decoding(source.records, 3, 16)
    kept = keep({"image": decoding}, {"image": source}, said.append)
    return kept["image"], said[0]


@pytest.fixture
def files(photos: RecordSource, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    monkeypatch.setattr("understudy.data.kept.free_memory", lambda: 0)
    folder = Path(os.environ["UNDERSTUDY_CACHE"]) / "images"
    return lambda: sorted(folder.iterdir()) if folder.exists() else []


def test_later_runs_find_the_file(photos: RecordSource, files: Callable[[], list[Path]]) -> None:
    first, said = kept_on_disk(photos)
    (path,) = files()
    assert "are kept in" in said
    inode = path.stat().st_ino
    second, said = kept_on_disk(photos)
    assert "are read from" in said
    assert files()[0].stat().st_ino == inode
    assert torch.equal(first.pixels(5), second.pixels(5))


def edit(photo: Path) -> None:
    Image.new("RGB", (61, 47), "red").save(photo)


def touch(photo: Path) -> None:
    os.utime(photo, (1, 1))


@pytest.mark.parametrize("change", [edit, touch])
def test_changed_files_are_decoded_anew(
    change: Callable[[Path], None], photos: RecordSource, files: Callable[[], list[Path]]
) -> None:
    kept_on_disk(photos)
    record = photos.records[5]
    assert isinstance(record, FileRecord)
    change(Path(record.root, record.relative))
    kept, said = kept_on_disk(photos)
    assert "are kept in" in said
    assert len(files()) == 2
    assert torch.equal(kept.pixels(5), Decoding(photos.records, 3, 16).pixels(5))


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: b"\xff" * 1000])
def test_a_damaged_file_is_written_again(
    damage: Callable[[bytes], bytes], photos: RecordSource, files: Callable[[], list[Path]]
) -> None:
    kept_on_disk(photos)
    (path,) = files()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    _, said = kept_on_disk(photos)
    assert "are kept in" in said
    assert path.read_bytes() == whole


def test_what_fits_nowhere_is_decoded_in_each_epoch(
    photos: RecordSource, files: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.data.kept.MOST_BYTES", 50_000)
    said: list[str] = []
    batches = loader(photos)
    batches.keep_decoded(6, said.append)
    assert len(said) == 1
    assert said[0].endswith("decoded in each epoch")
    equal(batches.epoch(0), loader(photos).epoch(0))
    assert files() == []


def test_the_cache_can_be_turned_off(photos: RecordSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.data.kept.free_memory", lambda: 0)
    monkeypatch.setenv("UNDERSTUDY_CACHE", "")
    said: list[str] = []
    loader(photos).keep_decoded(6, said.append)
    assert said[0].endswith("decoded in each epoch")


def test_a_full_disk_does_not_matter(
    photos: RecordSource, files: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("understudy.data.kept._fill", full)
    said: list[str] = []
    batches = loader(photos)
    batches.keep_decoded(6, said.append)
    assert said[-1] == "they could not be kept (No space left on device): decoded in each epoch"
    assert files() == []
    equal(batches.epoch(0), loader(photos).epoch(0))


def test_what_was_not_used_for_longest_goes(
    photos: RecordSource, files: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_on_disk(photos)
    (oldest,) = files()
    unfinished = oldest.with_name(".of a killed run.1.partial")
    unfinished.write_bytes(b"some")
    for path in (oldest, unfinished):
        os.utime(path, (1_000, 1_000))
    monkeypatch.setattr("understudy.data.kept.MOST_BYTES", oldest.stat().st_size * 3 // 2)
    kept_on_disk(photos.subset(torch.arange(11)))
    (left,) = files()
    assert left not in (oldest, unfinished)


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("1000", "400", 600), ("400", "1000", 0), ("max", "400", None), ("nonsense", "", None)],
)
def test_memory_is_free_within_the_limit_of_the_control_group(
    limit: str, used: str, free: int | None, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    found = free_memory(tmp_path)
    assert found == free if free is not None else found > 2**20


# ---- no larger than needed


def jpeg(image: Image.Image, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, **options)
    stream.seek(0)
    return stream


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_images_are_halved_as_often_as_they_stay_large_enough(width: int, height: int, least: int) -> None:
    times = halvings(width, height, least)
    shorter = min(width, height)
    assert times == 0 or shorter / 2**times >= least
    assert least == 0 or shorter / 2 ** (times + 1) < least
    stream = jpeg(Image.new("RGB", (width, height)))
    found = decode(stream, least).size
    assert min(found) >= min(shorter, least)
    by = 2 ** min(halvings(width, height, max(least, 16)), 3) if least else 1  # libjpeg knows no less than an eighth
    assert found == (-(-width // by), -(-height // by))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_size_of_decoded_images_depends_on_the_size_of_the_crops_alone(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (900, 641)).save(tmp_path / "photo", kind)
    records = [FileRecord(str(tmp_path), "photo")]
    for size, expected in ((400, (900, 641)), (160, (450, 321)), (80, (225, 161)), (1, (4, 3))):
        image = Decoding(records, 3, size).image(0)
        assert image.size == expected


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_what_is_tested_is_within_a_grey_level_of_full_decoding(name: str, mode: str, orientation: int) -> None:
    photo = Image.fromarray(load_sample_image(name)).resize((1600, 1200), Image.Resampling.BICUBIC, (0, 0, 560, 420))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = jpeg(photo.convert(mode), exif=exif)
    halved = decode(stream, 448)
    stream.seek(0)
    whole = decode(stream)
    assert [whole.width // 2, whole.height // 2] == [*halved.size]
    seen, expected = (np.asarray(center_crop(image, 224), np.int64) for image in (halved, whole))
    assert np.abs(seen - expected).mean() < 0.5
    assert (np.abs(seen - expected) <= 1).mean() > 0.95


def test_a_cut_jpeg_is_unreadable_at_any_size() -> None:
    data = jpeg(Image.fromarray(load_sample_image("china.jpg"))).getvalue()
    for least in (0, 50):
        with pytest.raises(Unreadable, match="truncated or corrupt"):
            decode(io.BytesIO(data[: len(data) // 2]), least)
