"""Images decoded once are what they are when decoded each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.data import ArraySource, RecordSource, Source
from understudy.data.cache import decoded, free_memory
from understudy.data.formats.records import FileRecord
from understudy.data.loader import in_order

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path: Path) -> RecordSource:
    """Seven images of different sizes, one of them cut."""
    random = np.random.default_rng(0)
    for number in range(7):
        pixels = random.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    records = [FileRecord(str(tmp_path), f"{number}.png") for number in range(7)]
    return RecordSource("photos", ("a", "b"), torch.arange(7) + 40, torch.arange(7) % 2, (3, 16, 16), records=records)


def batches(source: Source, skipped: dict[str, str]) -> list[torch.Tensor]:
    found = list(in_order(source, 3, CPU, 0, skipped))
    assert all(batch.targets is not None for batch in found)
    return [torch.cat([getattr(batch, name) for batch in found]) for name in ("ids", "inputs", "targets")]


@pytest.mark.parametrize("workers", [0, 2])
def test_decoded_once_or_each_time(workers: int, photos: RecordSource) -> None:
    each_time: dict[str, str] = {}
    once: dict[str, str] = {}
    kept = decoded(photos, workers, once)
    assert isinstance(kept, ArraySource)
    expected = batches(photos, each_time)
    assert once == each_time == {"3.png": "truncated or corrupt"}
    for a, b in zip(batches(kept, {}), expected, strict=True):
        assert torch.equal(a, b)
    assert [kept.sample_name(row) for row in range(6)] == [f"{number}.png" for number in (0, 1, 2, 4, 5, 6)]
    assert decoded(kept) is kept


def test_paired_modalities_stay_paired(photos: RecordSource) -> None:
    from dataclasses import replace

    gray = replace(photos, shape=(1, 8, 8), modality="depth")
    paired = replace(photos, pairs={"depth": gray})
    kept = decoded(paired)
    assert [(name, len(one), one.shape) for name, one in kept.modalities.items()] == [
        ("image", 6, (3, 16, 16)), ("depth", 6, (1, 8, 8)),
    ]  # fmt: skip
    for a, b in zip(in_order(kept, 6, CPU), in_order(paired, 7, CPU), strict=True):
        assert isinstance(a.inputs, dict)
        assert isinstance(b.inputs, dict)
        assert all(torch.equal(a.inputs[name], b.inputs[name]) for name in ("image", "depth"))


def test_what_would_take_too_much_memory_is_left_on_the_disk(
    photos: RecordSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert free_memory() > 2**20
    monkeypatch.setattr("understudy.data.cache.free_memory", lambda: 7 * 3 * 16 * 16 * 4 - 1)
    assert decoded(photos) is photos
