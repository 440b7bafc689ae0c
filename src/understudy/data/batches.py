"""Batches: the same samples in the same views at the same step, whoever asks and wherever a run was resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import tee
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from understudy.data.drawing import HalfAndHalf
from understudy.data.source import ArraySource, RecordSource, Source, Unreadable
from understudy.data.views import PLAIN, ViewPlan, place, to_unit, vary
from understudy.randomness import beta, mix, permutation
from understudy.signals import Batch

_ORDER, _VIEW, _MIX = 1, 2, 3
_TOGETHER = 32  # images that a worker decodes for one answer
_REPORTS = 20  # of training whose batches run on, at most


@dataclass(frozen=True, slots=True)
class _Step:
    """What one rank needs for one step.

    Attributes:
        rows: (M,) int64 rows of the source, the rank's own first, then others' that are mixed in.
        epochs: (M,) int64, or one for all: the pass that each belongs to.
        own: how many are the rank's own.
        partners: (own,) int64 places in `rows` of what is mixed in, or None.
        weight: of the own samples where they are mixed.
    """

    rows: Tensor
    epochs: Tensor | int
    own: int
    partners: Tensor | None = None
    weight: float = 1.0


@dataclass
class Batches:
    """The stream of training batches of one rank.

    Everything about sample i in epoch e is a function of (seed, e, i): its place in the order, its view. Place p of
    the whole stream is sample `permutation(p // n)[p % n]` in its view of epoch p // n, n being the set's size.

    Attributes:
        source: where the samples come from; an array is moved to the device once.
        batch_size: samples of a step over all ranks; each rank takes its equal, contiguous share.
        updates: how many steps there are in all, where batches run on from one epoch to the next and all are
            whole; None where each epoch ends with what is left.
        mixup: a of Beta(a, a), from which each step draws a weight w: its batch becomes w times itself plus 1 - w
            times itself in another order. Both are functions of (seed, step) and span all ranks: a rank takes the
            partners that another has from the source itself, which for records decodes them twice. A record that
            cannot be read leaves its partner unmixed.
        draw: gives the rows of an epoch, of which each has as many; all of them in a new order where None.
        set_aside: record name -> reason, for records that could not be decoded so far.
    """

    source: Source
    plan: ViewPlan
    batch_size: int
    seed: int
    device: torch.device
    rank: int = 0
    world: int = 1
    workers: int = 0
    updates: int | None = None
    mixup: float = 0.0
    set_aside: dict[str, str] = field(default_factory=dict)
    draw: HalfAndHalf | None = None

    def __post_init__(self) -> None:
        self._targets = _to(self.source.targets, self.device)
        self._ids = self.source.ids.to(self.device)
        each = self.source.modalities
        self._pools = {name: one.inputs.to(self.device) for name, one in each.items() if isinstance(one, ArraySource)}
        self._known: tuple[tuple[int, int], Tensor] = ((-1, -1), torch.empty(0))
        self._seen: tuple[int, Tensor] = (-1, torch.empty(0))

    @property
    def steps(self) -> int:
        """Steps of an epoch, the last of which may be ragged.

        Where batches run on it is what is reported together: a pass, or a twentieth of all steps if that is more.
        """
        once = -(-self._length // self.batch_size)
        return once if self.updates is None else max(once, -(-self.updates // _REPORTS))

    def passes(self, steps: int) -> float:
        """How often so many steps have shown each sample."""
        return steps / self.steps if self.updates is None else steps * self.batch_size / self._length

    @property
    def _length(self) -> int:
        """Samples that an epoch shows."""
        return len(self.source if self.draw is None else self.draw)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batch for each step of an epoch from `start` on."""
        return self.stream(epoch * self.steps + start, (epoch + 1) * self.steps)

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """This rank's batch for each of these steps, counted from the first; an empty one where none could be read."""
        steps = map(self._step, range(start, stop))
        if isinstance(self.source, ArraySource):
            for step in steps:
                rows = step.rows.to(self.device)
                if isinstance(step.epochs, int):
                    view = self._views(step.epochs)[rows]
                else:
                    view = mix(self.seed, _VIEW, step.epochs.to(self.device), self._ids[rows])
                yield self._batch(step, rows, view, self._pools, rows, self.plan)
            return
        steps, ahead = tee(steps)
        plan = replace(self.plan, crop=1.0, window=0, resize=0)  # the decoders have cropped
        parts = ((step.rows, mix(self.seed, _VIEW, step.epochs, self.source.ids[step.rows])) for step in ahead)
        for step, (kept, view, images) in zip(
            steps, _decoded(self.source, parts, self.plan, self.workers, self.set_aside), strict=True
        ):
            pools = {name: x.to(self.device, non_blocking=True) for name, x in images.items()}
            every = torch.arange(len(kept), device=self.device)
            yield self._batch(
                _without(step, kept), step.rows[kept].to(self.device), view.to(self.device), pools, every, plan
            )

    def _step(self, step: int) -> _Step:
        n, size = self._length, self.batch_size
        if self.updates is None:
            epoch, number = divmod(step, self.steps)
            begin = epoch * n + number * size
            end = min(begin + size, (epoch + 1) * n)
        else:
            begin, end = step * size, (step + 1) * size
        first, last = begin // n, (end - 1) // n
        rows = self._order(first, last)[begin - first * n : end - first * n]
        epochs = torch.arange(begin, end) // n if first < last else first
        if not self.mixup:
            own = _share(rows, self.rank, self.world)
            return _Step(own, epochs if isinstance(epochs, int) else _share(epochs, self.rank, self.world), len(own))
        own = _share(torch.arange(len(rows)), self.rank, self.world)
        others = permutation(len(rows), self.seed, _MIX, step)[own]
        needed = own if self.world == 1 else torch.cat([own, others[~torch.isin(others, own)]])
        place = torch.empty_like(rows)
        place[needed] = torch.arange(len(needed))
        weight = beta(self.mixup, self.seed, _MIX, step)
        return _Step(
            rows[needed], epochs if isinstance(epochs, int) else epochs[needed], len(own), place[others], weight
        )

    def _views(self, epoch: int) -> Tensor:
        """The view of every sample in an epoch; for all at once, as a batch's alone take as long to begin."""
        if self._seen[0] != epoch:
            self._seen = epoch, mix(self.seed, _VIEW, epoch, self._ids)
        return self._seen[1]

    def _order(self, first: int, last: int) -> Tensor:
        """Rows of the source in the order in which these epochs show them."""
        if self._known[0] != (first, last):
            draw = self.draw or partial(permutation, len(self.source), self.seed, _ORDER)
            self._known = ((first, last), torch.cat([draw(epoch) for epoch in range(first, last + 1)]))
        return self._known[1]

    def _batch(
        self, step: _Step, rows: Tensor, view: Tensor, pools: dict[str, Tensor], of_pool: Tensor, plan: ViewPlan
    ) -> Batch:
        """The samples `rows` in the same view of every modality, taken from rows `of_pool` of some pools, and mixed."""
        inputs = {name: _unit(vary(pool, of_pool, view, plan), pool.dtype) for name, pool in pools.items()}
        targets = None if self._targets is None else self._targets[rows]
        if step.partners is None:
            return Batch(self._ids[rows], view, _lone(inputs), targets)
        own, partners = step.own, step.partners.to(self.device)
        inputs = {name: x[partners].lerp_(x[:own], step.weight) for name, x in inputs.items()}
        of_own, of_partners = (None, None) if targets is None else (targets[:own], targets[partners])
        return Batch(self._ids[rows[:own]], view[:own], _lone(inputs), of_own, step.weight, of_partners)


def _without(step: _Step, kept: Tensor) -> _Step:
    """A step of which only some rows, rising places in `rows`, could be read."""
    if step.partners is None or len(kept) == len(step.rows):
        return step
    place = torch.full((len(step.rows),), -1)
    place[kept] = torch.arange(len(kept))
    own = kept[kept < step.own]
    partners = place[step.partners[own]]
    alone = torch.arange(len(own))
    return replace(step, own=len(own), partners=torch.where(partners < 0, alone, partners))


def _unit(inputs: Tensor, stored: torch.dtype) -> Tensor:
    """In [0, 1] what was stored as bytes: interpolated views of these are floats in 0..255."""
    if stored == torch.uint8 and inputs.dtype != torch.uint8:
        return inputs.div_(255)
    return to_unit(inputs)


def _lone(inputs: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """The tensor alone where there is but one modality."""
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def in_order(
    source: Source, batch_size: int, device: torch.device, workers: int = 0, set_aside: dict[str, str] | None = None
) -> Iterator[Batch]:
    """The plain, unvaried batches of a source in its own order, for evaluation."""
    parts = torch.arange(len(source)).split(batch_size)
    if isinstance(source, ArraySource):
        each = {name: one.inputs for name, one in source.modalities.items() if isinstance(one, ArraySource)}
        stream: Any = ((rows, torch.zeros_like(rows), {name: x[rows] for name, x in each.items()}) for rows in parts)
    else:
        decoded = _decoded(
            source, ((rows, None) for rows in parts), PLAIN, workers, {} if set_aside is None else set_aside
        )
        stream = ((rows[kept], view, images) for rows, (kept, view, images) in zip(parts, decoded, strict=True))
    for rows, view, images in stream:
        inputs = _lone({name: to_unit(x.to(device)) for name, x in images.items()})
        targets = None if source.targets is None else source.targets[rows]
        yield Batch(source.ids[rows].to(device), view.to(device), inputs, _to(targets, device))


def _share(rows: Tensor, rank: int, world: int) -> Tensor:
    return rows[len(rows) * rank // world : len(rows) * (rank + 1) // world]


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)


Images = dict[str, Tensor]
_Sample = tuple[int, Images | str]


class _Decoder(Dataset):
    """(row, view seed or None) -> by modality uint8 (C, S, S), all of one crop; or the reason why not."""

    def __init__(self, sources: dict[str, RecordSource], plan: ViewPlan) -> None:
        self.modalities = {name: (one.records, one.shape, one.squash) for name, one in sources.items()}
        self.plan = plan

    def __getitem__(self, key: tuple[int, int | None]) -> _Sample:
        row, seed = key
        images = {}
        try:
            for name, (records, (channels, side, _), squash) in self.modalities.items():
                image = records[row].read().convert("L" if channels == 1 else "RGB")
                resize = self.plan.resize or (side if squash else 0)
                pixels = torch.from_numpy(np.array(place(image, side, seed, self.plan.crop, resize)))
                images[name] = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
        except Unreadable as reason:
            return row, str(reason)
        return row, images


def _stacked(samples: list[_Sample]) -> tuple[list[int], Images, list[tuple[int, str]]]:
    """Places of the samples that could be read, these stacked by modality, and (row, reason) of the others."""
    good = [(k, images) for k, (_, images) in enumerate(samples) if isinstance(images, dict)]
    names = good[0][1] if good else ()
    stacks = {name: torch.stack([images[name] for _, images in good]) for name in names}
    return [k for k, _ in good], stacks, [(row, reason) for row, reason in samples if isinstance(reason, str)]


def _decoded(
    source: Source,
    parts: Iterable[tuple[Tensor, Tensor | None]],
    plan: ViewPlan,
    workers: int,
    set_aside: dict[str, str],
) -> Iterator[tuple[Tensor, Tensor, Images]]:
    """(kept, view seeds, images) of each part, rows with their view seeds or None, that workers decode.

    `kept` are the places in the part of what could be read; what could not is left out and noted. Large parts are
    decoded in pieces, so that the workers share each of them and little waits in memory.
    """
    each = {name: one for name, one in source.modalities.items() if isinstance(one, RecordSource)}
    assert isinstance(source, RecordSource)
    assert len(each) == 1 + len(source.pairs), "modalities are of one kind"
    parts, ahead = tee(parts)
    loader = DataLoader(
        _Decoder(each, plan),
        batch_sampler=_Keys(ahead),
        num_workers=workers,
        collate_fn=_stacked,
        multiprocessing_context="forkserver" if workers else None,
    )
    pieces = iter(loader)
    for rows, views in parts:
        kept: list[Tensor] = []
        stacks: dict[str, list[Tensor]] = {
            name: [torch.empty(0, *one.shape, dtype=torch.uint8)] for name, one in each.items()
        }
        for start in range(0, len(rows), _TOGETHER):
            places, images, faults = next(pieces)
            for row, reason in faults:
                set_aside[source.records[row].name] = reason
            kept.append(start + torch.tensor(places, dtype=torch.int64))
            for name, x in images.items():
                stacks[name].append(x)
        places = torch.cat(kept) if kept else torch.empty(0, dtype=torch.int64)
        yield (
            places,
            torch.zeros_like(places) if views is None else views[places],
            {n: torch.cat(x) for n, x in stacks.items()},
        )


class _Keys(Sampler[Any]):
    """The keys of a `_Decoder` for some parts, in pieces."""

    def __init__(self, parts: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[list[tuple[int, int | None]]]:
        for rows, views in self.parts:
            seeds: list[int | None] = [None] * len(rows) if views is None else views.tolist()
            keys: list[tuple[int, int | None]] = list(zip(rows.tolist(), seeds, strict=True))
            yield from (keys[k : k + _TOGETHER] for k in range(0, len(keys), _TOGETHER))


def count_reasons(set_aside: dict[str, str]) -> dict[str, int]:
    """Reason -> how many records were set aside for it."""
    return dict(Counter(set_aside.values()))
