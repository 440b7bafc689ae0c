"""Batches do not depend on workers, ranks, batch size, or where an epoch is resumed."""

from __future__ import annotations

import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from batch_helpers import CPU, MOVING, arrays, equal, folder, joined
from understudy.data.augment import NO_AUGMENTATION, Augmentation
from understudy.data.formats.records import FileRecord
from understudy.data.loader import BatchLoader, in_order
from understudy.data.skipped import count_skip_reasons
from understudy.data.source import RecordSource, Source
from understudy.data.views import Views
from understudy.data.workers import decode_batches
from understudy.pipeline.device import usable_cores


def make(
    source: Source, augmentation: Augmentation = MOVING, batch: int = 5, rank: int = 0, world: int = 1, workers: int = 0
) -> BatchLoader:
    return BatchLoader(source, Views(augmentation, 7), batch, 7, CPU, rank, world, workers)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_each_epoch_is_a_permutation(n: int, batch: int, epoch: int) -> None:
    source = arrays(n)
    batches = make(source, NO_AUGMENTATION, batch)
    seen = list(batches.epoch(epoch))
    ids, _, inputs, targets = joined(seen)
    assert sorted(ids.tolist()) == source.ids.tolist()
    assert len(seen) == batches.steps
    sizes = [len(b) for b in seen]
    assert all(size == batch for size in sizes[:-1])
    assert sizes[-1] <= batch + 1
    assert 1 not in sizes or batch == 1 or n == 1, "no sample is left alone"
    rows = (ids - 3) // 10
    assert torch.equal(inputs, source.inputs[rows].float() / 255)
    assert source.targets is not None
    assert torch.equal(targets, source.targets[rows])


def test_epochs_and_seeds_differ() -> None:
    source = arrays()
    first, second = joined(make(source).epoch(0)), joined(make(source).epoch(1))
    assert first[0].tolist() != second[0].tolist()
    assert not set(first[1].tolist()) & set(second[1].tolist()), "every epoch has new views"
    other = joined(BatchLoader(source, Views(MOVING, 8), 5, 8, CPU).epoch(0))
    assert first[0].tolist() != other[0].tolist()


@given(st.integers(0, 5), st.integers(0, 4), st.sampled_from([5, 11]))
@settings(max_examples=20, deadline=None)
def test_an_epoch_can_be_resumed(start: int, epoch: int, batch: int) -> None:
    batches = make(arrays(), batch=batch)
    whole = list(batches.epoch(epoch))
    tail = list(batches.epoch(epoch, start=start))
    assert len(tail) == max(len(whole) - start, 0)
    if tail:
        equal(tail, whole[start:])


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("batch", [4, 5, 11])
def test_ranks_together_equal_one_process(world: int, batch: int) -> None:
    source = arrays()
    whole = list(make(source, batch=batch).epoch(2))
    ranks = [list(make(source, batch=batch, rank=r, world=world).epoch(2)) for r in range(world)]
    for step, one in enumerate(whole):
        shares = [rank[step] for rank in ranks]
        equal(shares, [one])
        assert max(len(b) for b in shares) - min(len(b) for b in shares) <= 1


def test_views_do_not_depend_on_the_batch() -> None:
    source = arrays()
    one = {int(b.ids[0]): b for b in make(source, batch=1).epoch(0)}
    for batch in make(source, batch=7).epoch(0):
        assert isinstance(batch.inputs, Tensor)
        for k, sample in enumerate(batch.ids.tolist()):
            assert torch.equal(one[sample].inputs[0], batch.inputs[k])  # type: ignore[index]
            assert int(one[sample].view[0]) == int(batch.view[k])


def test_a_sample_keeps_its_view_in_a_subset() -> None:
    source = arrays()
    whole = {int(i): int(v) for b in make(source).epoch(1) for i, v in zip(b.ids, b.view, strict=True)}
    part = make(source.subset(torch.tensor([2, 5, 11, 20])))
    for batch in part.epoch(1):
        assert [whole[int(i)] for i in batch.ids] == batch.view.tolist()


@pytest.mark.parametrize("augmentation", [NO_AUGMENTATION, MOVING, Augmentation(rotate=20.0, zoom=0.1)])
def test_inputs_are_in_the_unit_interval(augmentation: Augmentation) -> None:
    inputs = joined(make(arrays(), augmentation).epoch(0))[2]
    assert inputs.dtype == torch.float32
    assert float(inputs.min()) >= 0
    assert 0.8 < float(inputs.max()) <= 1 + 1e-5


def test_workers_change_nothing(tmp_path: Path) -> None:
    source = folder(tmp_path)
    augmentation = Augmentation(translate=2, flip=True, crop_scale=0.3)
    alone = list(make(source, augmentation, workers=0).epoch(1))
    helped = list(make(source, augmentation, workers=2).epoch(1))
    equal(alone, helped)
    ids, _, inputs, _ = joined(alone)
    assert sorted(ids.tolist()) == sorted(source.ids.tolist())
    assert inputs.shape == (14, 3, 32, 32)
    equal(make(source, augmentation).epoch(1, start=1), alone[1:])
    halves = [list(make(source, augmentation, rank=r, world=2).epoch(1)) for r in (0, 1)]
    for step, one in enumerate(alone):
        equal([half[step] for half in halves], [one])


def test_workers_stay_from_epoch_to_epoch(tmp_path: Path) -> None:
    """Also where an epoch was left before its end."""
    source = folder(tmp_path)
    batches, alone = make(source, workers=2), make(source)
    known = {process.pid for process in active_children()}
    left = batches.epoch(0)
    next(left)
    workers = {process.pid for process in active_children()} - known
    assert len(workers) == 2
    for epoch in (1, 2):
        equal(batches.epoch(epoch), alone.epoch(epoch))
    assert {process.pid for process in active_children()} - known == workers
    with pytest.raises(AssertionError, match="another iterator"):
        list(left)


def test_records_in_order_are_center_crops(tmp_path: Path) -> None:
    source = folder(tmp_path)
    found = list(in_order(source, 4, CPU))
    assert torch.cat([b.ids for b in found]).tolist() == source.ids.tolist()
    first = found[0].inputs
    assert isinstance(first, Tensor)
    image = source.records[0].read().convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))
    assert np.abs(first[0].permute(1, 2, 0).numpy() * 255 - expected).max() < 0.01


def test_unreadable_records_are_skipped(tmp_path: Path) -> None:
    source = folder(tmp_path)
    bad = tmp_path / "train" / "cat" / "5.png"
    bad.write_bytes(bad.read_bytes()[:300])
    names = [record.name for record in source.records]
    (row,) = [k for k, name in enumerate(names) if name.endswith("cat/5.png")]
    batches = make(source, NO_AUGMENTATION)
    seen = list(batches.epoch(0))
    ids, _, inputs, targets = joined(seen)
    assert sorted(ids.tolist()) == sorted(set(source.ids.tolist()) - {int(source.ids[row])})
    assert len(ids) == len(inputs) == len(targets) == 13
    assert source.targets is not None
    label = dict(zip(source.ids.tolist(), source.targets.tolist(), strict=True))
    assert [label[i] for i in ids.tolist()] == targets.tolist()
    assert list(batches.skipped) == [names[row]]
    assert count_skip_reasons(batches.skipped) == {batches.skipped[names[row]]: 1}
    noted: dict[str, str] = {}
    assert sum(len(b) for b in in_order(source, 4, CPU, skipped=noted)) == 13
    assert noted == batches.skipped
    alone = list(make(source, NO_AUGMENTATION, batch=1).epoch(0))
    assert sorted(len(b) for b in alone) == [0] + [1] * 13, "a batch may be empty"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "nonsense"}, 4),
    ],
)
def test_workers_are_as_many_as_the_cores_that_may_be_used(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def test_later_workers_start_in_a_fraction_of_a_second(tmp_path: Path) -> None:
    """They are copies of a process that has imported torch, which takes seconds."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    for number in range(4):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    records = [FileRecord(str(tmp_path), f"{number}.png") for number in range(4)]
    source = RecordSource("some", (), torch.arange(4), None, (3, 8, 8), records=records)

    def seconds() -> float:
        started = time.monotonic()
        rows = [index for index, _, _ in decode_batches(source, [(torch.arange(4), None)], NO_AUGMENTATION, 1, {})]
        assert torch.cat(rows).tolist() == [0, 1, 2, 3]
        return time.monotonic() - started

    first = seconds()
    assert min(seconds() for _ in range(3)) < max(0.5, first / 2)
