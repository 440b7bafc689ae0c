"""Decoded images on the disk: the same data as decoded anew, and decoded anew where anything has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.data import ArraySource, Splits, open_source
from understudy.data.formats import build, decoded


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty images of one size, of which two cannot be read, that are worth to be kept."""
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "MANY", 1)
    monkeypatch.setattr(build, "WORTH", 0.0)
    random = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos/cat/0.png").write_bytes(b"")
    cut = tmp_path / "photos/dog/1.png"
    cut.write_bytes(cut.read_bytes()[:-60])
    return tmp_path / "photos"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each opening decodes."""
    counts: list[int] = []
    real = build._decode

    def counted(records: list[object], *arguments: object) -> object:
        counts.append(len(records))
        return real(records, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "_decode", counted)
    return counts


def files(photos: Path) -> list[Path]:
    return sorted((photos.parent / "cache").rglob("*.safetensors"))


def same(first: Splits, second: Splits) -> bool:
    for a, b in ((first.train, second.train), (first.test, second.test)):
        assert isinstance(a, ArraySource)
        assert isinstance(b, ArraySource)
        assert a.targets is not None
        assert b.targets is not None
        assert (a.shape, a.classes, a.skipped, a.notes, a.names) == (b.shape, b.classes, b.skipped, b.notes, b.names)
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.targets, b.targets)
        if not torch.equal(a.inputs, b.inputs):
            return False
    return True


def test_decoded_once(photos: Path, reads: list[int]) -> None:
    first = open_source(str(photos))
    decoded_once = list(reads)
    assert sum(decoded_once) >= 38
    assert same(first, open_source(str(photos)))
    assert reads == decoded_once
    assert len(files(photos)) == 1


def touch(photos: Path) -> None:
    os.utime(photos / "cat/2.png", (1, 1))


def edit(photos: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(photos / "cat/2.png")


def remove(photos: Path) -> None:
    (photos / "cat/2.png").unlink()


def rename(photos: Path) -> None:
    (photos / "cat/2.png").rename(photos / "cat/200.png")


@pytest.mark.parametrize("change", [touch, edit, remove, rename])
def test_changed_files_are_decoded_anew(change: Callable[[Path], None], photos: Path, reads: list[int]) -> None:
    open_source(str(photos))
    before = len(reads)
    change(photos)
    open_source(str(photos))
    assert len(reads) > before
    assert len(files(photos)) == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 500])
def test_a_damaged_file_is_written_again(damage: bytes, photos: Path, reads: list[int]) -> None:
    first = open_source(str(photos))
    files(photos)[0].write_bytes(damage)
    assert same(first, open_source(str(photos)))
    count = len(reads)
    assert same(first, open_source(str(photos)))
    assert len(reads) == count


def test_another_size_is_another_set(photos: Path) -> None:
    first, small = open_source(str(photos)), open_source(str(photos), size=4)
    assert (first.train.shape, small.train.shape) == ((3, 8, 8), (3, 4, 4))
    assert open_source(str(photos), size=4).train.shape == (3, 4, 4)


def test_it_can_be_turned_off(photos: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_CACHE", "")
    open_source(str(photos))
    count = len(reads)
    open_source(str(photos))
    assert len(reads) == 2 * count
    assert files(photos) == []


def test_a_place_that_cannot_be_written_does_not_matter(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos.parent / "file").write_text("")
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(photos.parent / "file"))
    assert open_source(str(photos)).train.shape == (3, 8, 8)


def test_what_was_not_used_for_longest_goes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (4, 5, 6):
        open_source(str(photos), size=size)
    oldest = files(photos)
    for age, file in enumerate(oldest):
        os.utime(file, (1_000 + age, 1_000 + age))
    monkeypatch.setattr(decoded, "MOST_BYTES", sum(file.stat().st_size for file in oldest))
    open_source(str(photos), size=7)
    assert oldest[0] not in files(photos)
