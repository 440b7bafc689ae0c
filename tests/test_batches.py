"""Batches: the same samples in the same views, whoever asks and wherever one begins."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from understudy.data import ArraySource, RecordSource, open_source
from understudy.data.batches import Batches, count_reasons, in_order
from understudy.data.source import Source
from understudy.data.views import PLAIN, ViewPlan
from understudy.signals import Batch

CPU = torch.device("cpu")
MOVING = ViewPlan(jitter=2, flip=True)


def arrays(n: int = 23) -> ArraySource:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 256, (n, 1, 6, 5), generator=generator, dtype=torch.uint8)
    ids, targets = torch.arange(n) * 10 + 3, torch.arange(n) % 3
    return ArraySource("toy", ("a", "b", "c"), ids, targets, (1, 6, 5), inputs=inputs)


def folder(path: Path, n: int = 14) -> RecordSource:
    rng = np.random.default_rng(0)
    for k in range(n):
        place = path / "train" / ("cat" if k % 2 else "dog") / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + k, 50, 3), dtype=np.uint8)).save(place)
    test = path / "test" / "cat"
    test.mkdir(parents=True)
    (path / "test" / "dog").mkdir()
    for part in ("cat", "dog"):
        Image.new("RGB", (40, 40)).save(path / "test" / part / "t.png")
    source = open_source(path, size=32).train
    assert isinstance(source, RecordSource)
    assert len(source) == n
    return source


def make(
    source: Source, plan: ViewPlan = MOVING, batch: int = 5, rank: int = 0, world: int = 1, workers: int = 0
) -> Batches:
    return Batches(source, plan, batch, 7, CPU, rank, world, workers)


def joined(batches: Iterable[Batch]) -> tuple[Tensor, ...]:
    parts = [(b.ids, b.view, b.inputs, b.targets) for b in batches]
    return tuple(torch.cat([x for x in column if isinstance(x, Tensor)]) for column in zip(*parts, strict=True))


def equal(one: Iterable[Batch], two: Iterable[Batch]) -> None:
    for a, b in zip(joined(one), joined(two), strict=True):
        assert torch.equal(a, b)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_each_epoch_is_a_permutation(n: int, batch: int, epoch: int) -> None:
    source = arrays(n)
    batches = make(source, PLAIN, batch)
    seen = list(batches.epoch(epoch))
    ids, _, inputs, targets = joined(seen)
    assert sorted(ids.tolist()) == source.ids.tolist()
    assert len(seen) == batches.steps
    assert [len(b) for b in seen] == [min(batch, n - k) for k in range(0, n, batch)]
    rows = (ids - 3) // 10
    assert torch.equal(inputs, source.inputs[rows].float() / 255)
    assert source.targets is not None
    assert torch.equal(targets, source.targets[rows])


def test_epochs_and_seeds_differ() -> None:
    source = arrays()
    first, second = joined(make(source).epoch(0)), joined(make(source).epoch(1))
    assert first[0].tolist() != second[0].tolist()
    assert not set(first[1].tolist()) & set(second[1].tolist()), "every epoch shows new views"
    other = joined(Batches(source, MOVING, 5, 8, CPU).epoch(0))
    assert first[0].tolist() != other[0].tolist()


@given(st.integers(0, 5), st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_an_epoch_from_the_middle_is_its_tail(start: int, epoch: int) -> None:
    batches = make(arrays())
    whole = list(batches.epoch(epoch))
    tail = list(batches.epoch(epoch, start=start))
    assert len(tail) == max(len(whole) - start, 0)
    if tail:
        equal(tail, whole[start:])


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("batch", [4, 5])
def test_the_ranks_together_are_one(world: int, batch: int) -> None:
    source = arrays()
    whole = list(make(source, batch=batch).epoch(2))
    ranks = [list(make(source, batch=batch, rank=r, world=world).epoch(2)) for r in range(world)]
    for step, one in enumerate(whole):
        shares = [rank[step] for rank in ranks]
        equal(shares, [one])
        assert max(len(b) for b in shares) - min(len(b) for b in shares) <= 1


def test_a_view_does_not_depend_on_the_batch() -> None:
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


@pytest.mark.parametrize("plan", [PLAIN, MOVING, ViewPlan(rotate=20.0, zoom=0.1)])
def test_inputs_are_in_the_unit_interval(plan: ViewPlan) -> None:
    inputs = joined(make(arrays(), plan).epoch(0))[2]
    assert inputs.dtype == torch.float32
    assert float(inputs.min()) >= 0
    assert 0.8 < float(inputs.max()) <= 1 + 1e-5


def test_workers_change_no_byte(tmp_path: Path) -> None:
    source = folder(tmp_path)
    plan = ViewPlan(jitter=2, flip=True, crop=0.3)
    alone = list(make(source, plan, workers=0).epoch(1))
    helped = list(make(source, plan, workers=2).epoch(1))
    equal(alone, helped)
    ids, _, inputs, _ = joined(alone)
    assert sorted(ids.tolist()) == sorted(source.ids.tolist())
    assert inputs.shape == (14, 3, 32, 32)
    equal(make(source, plan).epoch(1, start=1), alone[1:])
    halves = [list(make(source, plan, rank=r, world=2).epoch(1)) for r in (0, 1)]
    for step, one in enumerate(alone):
        equal([half[step] for half in halves], [one])


def test_records_in_order_are_plain(tmp_path: Path) -> None:
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


def test_unreadable_records_are_set_aside(tmp_path: Path) -> None:
    source = folder(tmp_path)
    bad = tmp_path / "train" / "cat" / "5.png"
    bad.write_bytes(bad.read_bytes()[:300])
    names = [record.name for record in source.records]
    (row,) = [k for k, name in enumerate(names) if name.endswith("cat/5.png")]
    batches = make(source, PLAIN)
    seen = list(batches.epoch(0))
    ids, _, inputs, targets = joined(seen)
    assert sorted(ids.tolist()) == sorted(set(source.ids.tolist()) - {int(source.ids[row])})
    assert len(ids) == len(inputs) == len(targets) == 13
    assert source.targets is not None
    label = dict(zip(source.ids.tolist(), source.targets.tolist(), strict=True))
    assert [label[i] for i in ids.tolist()] == targets.tolist()
    assert list(batches.set_aside) == [names[row]]
    assert count_reasons(batches.set_aside) == {batches.set_aside[names[row]]: 1}
    noted: dict[str, str] = {}
    assert sum(len(b) for b in in_order(source, 4, CPU, set_aside=noted)) == 13
    assert noted == batches.set_aside
    alone = list(make(source, PLAIN, batch=1).epoch(0))
    assert sorted(len(b) for b in alone) == [0] + [1] * 13, "a batch may be left with nothing"
