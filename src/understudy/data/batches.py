"""Batches: the same samples in the same views at the same step, whoever asks and wherever a run was resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from understudy.data.drawing import HalfAndHalf
from understudy.data.source import ArraySource, RecordSource, Source, Unreadable
from understudy.data.views import ViewPlan, place, to_unit, vary
from understudy.randomness import mix, permutation
from understudy.signals import Batch

_ORDER, _VIEW = 1, 2


@dataclass
class Batches:
    """The stream of training batches of one rank.

    Everything about sample i in epoch e is a function of (seed, e, i): its place in the order, its view.

    Attributes:
        source: where the samples come from; an array is moved to the device once.
        batch_size: samples of a step over all ranks; each rank takes its equal, contiguous share.
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
    set_aside: dict[str, str] = field(default_factory=dict)
    draw: HalfAndHalf | None = None

    def __post_init__(self) -> None:
        self._targets = _to(self.source.targets, self.device)
        self._ids = self.source.ids.to(self.device)
        each = self.source.modalities
        self._pools = {name: one.inputs.to(self.device) for name, one in each.items() if isinstance(one, ArraySource)}

    @property
    def steps(self) -> int:
        """Steps of an epoch; the last one may be ragged."""
        return -(-len(self.source if self.draw is None else self.draw) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batch for each step of an epoch from `start` on; without samples where none could be read."""
        order = self.draw(epoch) if self.draw else permutation(len(self.source), self.seed, _ORDER, epoch)
        parts = [_share(chunk, self.rank, self.world) for chunk in order.split(self.batch_size)[start:]]
        if isinstance(self.source, ArraySource):
            for rows in parts:
                yield self._array_batch(rows.to(self.device), epoch)
        else:
            views = [mix(self.seed, _VIEW, epoch, self.source.ids[rows]) for rows in parts]
            plan = replace(self.plan, crop=1.0)  # the decoders have cropped
            for kept, view, images in _decoded(self.source, parts, views, self.plan.crop, self.workers, self.set_aside):
                view = view.to(self.device)
                pools = {name: x.to(self.device, non_blocking=True) for name, x in images.items()}
                every = torch.arange(len(kept), device=self.device)
                yield self._batch(kept.to(self.device), view, pools, every, plan)

    def _array_batch(self, rows: Tensor, epoch: int) -> Batch:
        view = mix(self.seed, _VIEW, epoch, self._ids[rows])
        return self._batch(rows, view, self._pools, rows, self.plan)

    def _batch(self, rows: Tensor, view: Tensor, pools: dict[str, Tensor], of_pool: Tensor, plan: ViewPlan) -> Batch:
        """The samples `rows` in the same view of every modality, taken from rows `of_pool` of some pools."""
        inputs = {name: _unit(vary(pool, of_pool, view, plan), pool.dtype) for name, pool in pools.items()}
        targets = None if self._targets is None else self._targets[rows]
        return Batch(self._ids[rows], view, _lone(inputs), targets)


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
        stream = _decoded(source, list(parts), None, 1.0, workers, {} if set_aside is None else set_aside)
    for rows, view, images in stream:
        inputs = _lone({name: to_unit(x.to(device)) for name, x in images.items()})
        targets = None if source.targets is None else source.targets[rows]
        yield Batch(source.ids[rows].to(device), view.to(device), inputs, _to(targets, device))


def _share(rows: Tensor, rank: int, world: int) -> Tensor:
    return rows[len(rows) * rank // world : len(rows) * (rank + 1) // world]


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)


Images = dict[str, Tensor]


class _Decoder(Dataset):
    """(row, view seed or None) -> by modality uint8 (C, S, S), all of one crop; or the reason why not."""

    def __init__(self, sources: dict[str, RecordSource], smallest: float) -> None:
        self.modalities = {name: (source.records, source.shape) for name, source in sources.items()}
        self.smallest = smallest

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[int, int, Images | str]:
        row, seed = key
        images = {}
        try:
            for name, (records, (channels, side, _)) in self.modalities.items():
                image = records[row].read().convert("L" if channels == 1 else "RGB")
                pixels = torch.from_numpy(np.array(place(image, side, seed, self.smallest)))
                images[name] = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
        except Unreadable as reason:
            return row, seed or 0, str(reason)
        return row, seed or 0, images


def _decoded(
    source: Source,
    parts: list[Tensor],
    views: list[Tensor] | None,
    smallest: float,
    workers: int,
    set_aside: dict[str, str],
) -> Iterator[tuple[Tensor, Tensor, Images]]:
    """(rows, view seeds, images) of each part that workers decode; unreadable rows are left out and noted."""
    each = {name: one for name, one in source.modalities.items() if isinstance(one, RecordSource)}
    assert isinstance(source, RecordSource)
    assert len(each) == 1 + len(source.pairs), "modalities are of one kind"
    keys: list[list[tuple[int, int | None]]] = [
        list(zip(rows.tolist(), [None] * len(rows) if views is None else views[k].tolist(), strict=True))
        for k, rows in enumerate(parts)
    ]
    loader = DataLoader(
        _Decoder(each, smallest),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=list,
        multiprocessing_context="forkserver" if workers else None,
    )
    for samples in loader:
        good = [(row, seed, image) for row, seed, image in samples if isinstance(image, dict)]
        for row, _, reason in samples:
            if isinstance(reason, str):
                set_aside[source.records[row].name] = reason
        yield (
            torch.tensor([row for row, _, _ in good], dtype=torch.int64),
            torch.tensor([seed for _, seed, _ in good], dtype=torch.int64),
            {
                name: torch.stack([images[name] for _, _, images in good])
                if good
                else torch.empty(0, *one.shape, dtype=torch.uint8)
                for name, one in each.items()
            },
        )


def count_reasons(set_aside: dict[str, str]) -> dict[str, int]:
    """Reason -> how many records were set aside for it."""
    return dict(Counter(set_aside.values()))
