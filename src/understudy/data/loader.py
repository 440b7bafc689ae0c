"""Batches as pure functions of seeds, independent of the number of ranks and workers and of where a run was resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import tee
from typing import Protocol

import torch
from torch import Tensor

from understudy.data.augment import NO_AUGMENTATION, Augmentation, augment, to_unit_range
from understudy.data.source import ArraySource, RecordSource, Source
from understudy.data.workers import Decoder, Images, after_decoding, decode_batches
from understudy.randomness import beta, mix, permutation
from understudy.signals import Batch

_ORDER, _VIEW, _MIX = 1, 2, 3  # random streams
_MAX_REPORTS = 20  # when training for a number of steps


class EpochSampler(Protocol):
    """Selects the samples of each epoch, the same number every time."""

    def __len__(self) -> int: ...
    def __call__(self, epoch: int) -> Tensor:
        """Row indices (int64), a pure function of the epoch."""
        ...


@dataclass(frozen=True, slots=True)
class _Step:
    """One rank's share of a step."""

    rows: Tensor  # (M,) int64 rows of the source: the rank's samples, then MixUp partners from other ranks' shares
    epochs: Tensor | int  # (M,) int64 epoch of each row, or one epoch for all
    size: int  # number of the rank's own samples
    partners: Tensor | None = None  # (size,) int64 MixUp partners as indices into `rows`
    weight: float = 1.0  # MixUp weight of the rank's own samples


def count_batches(samples: int, size: int) -> int:
    """How many batches samples are divided into; a last one of a single sample is part of the batch before it.

    A sample alone has no variance, which BatchNorm needs, and no other to be compared with.

    >>> [count_batches(n, 4) for n in (1, 4, 5, 6, 9)]
    [1, 1, 1, 2, 2]
    """
    full, rest = divmod(samples, size)
    return full + (rest > 1 or full == 0)


@dataclass
class BatchLoader:
    """Training batches of one rank.

    The order and the view of sample i in epoch e are functions of (seed, e, i) only: position p of the stream is sample
    `permutation(p // n)[p % n]` in its view of epoch p // n, where n is the size of the dataset.

    With `total_steps`, all batches are full and may span epochs; without, an epoch may end with a smaller batch, or
    with one of a sample more (see `count_batches`).

    With MixUp, each step draws a weight w from Beta(mixup, mixup) and mixes its global batch with a permutation of
    itself, w to 1 - w, both keyed by (seed, step). Partners in another rank's share are read from the source a second
    time. A sample whose partner cannot be decoded stays unmixed.
    """

    source: Source
    augmentation: Augmentation
    batch_size: int  # global; each rank takes an equal, contiguous share
    seed: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    total_steps: int | None = None
    mixup: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)  # record name -> reason, of those not decoded so far
    sampler: EpochSampler | None = None  # None takes all samples in random order

    def __post_init__(self) -> None:
        self._targets = _to(self.source.targets, self.device)
        self._ids = self.source.ids.to(self.device)
        self._pools = {name: x.to(self.device) for name, x in _arrays(self.source).items()}
        self._order_cache: tuple[tuple[int, int], Tensor] = ((-1, -1), torch.empty(0))
        self._view_cache: tuple[int, Tensor] = (-1, torch.empty(0))

    @cached_property
    def decoder(self) -> Decoder:
        """What decodes the records of the source, with workers that live as long as it does."""
        return Decoder(self.source, self.augmentation, self.workers)

    def keep_decoded(self, steps: int, say: Callable[[str], None]) -> None:
        """Decode records once if so many steps show them twice or more, and say what that takes."""
        several = steps * self.batch_size >= 2 * len(self.source)
        if isinstance(self.source, RecordSource) and several and self.world_size == 1:
            self.decoder.keep(say)

    @property
    def steps(self) -> int:
        """Steps per epoch; with `total_steps`, an epoch is one pass over the data, or 1/20 of all steps if longer."""
        steps = count_batches(self._length, self.batch_size)
        return steps if self.total_steps is None else max(steps, -(-self.total_steps // _MAX_REPORTS))

    def passes(self, steps: int) -> float:
        """Passes over the data after this many steps."""
        return steps / self.steps if self.total_steps is None else steps * self.batch_size / self._length

    @property
    def _length(self) -> int:
        """Samples per epoch."""
        return len(self.source if self.sampler is None else self.sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch, from step `start` on."""
        return self.stream(epoch * self.steps + start, (epoch + 1) * self.steps)

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """This rank's batches of the global steps `start` to `stop`; empty if no sample of a step can be decoded."""
        steps = map(self._step, range(start, stop))
        if isinstance(self.source, ArraySource):
            for step in steps:
                rows, epochs = step.rows.to(self.device), step.epochs
                if isinstance(epochs, int):
                    views = self._views(epochs)[rows]
                else:
                    views = mix(self.seed, _VIEW, epochs.to(self.device), self._ids[rows])
                yield self._batch(step, rows, views, self._pools, rows, self.augmentation)
            return
        steps, ahead = tee(steps)
        keys = ((step.rows, mix(self.seed, _VIEW, step.epochs, self.source.ids[step.rows])) for step in ahead)
        decoded = self.decoder.batches(keys, self.skipped)
        augmentation = after_decoding(self.augmentation)
        for step, (kept, views, images) in zip(steps, decoded, strict=True):
            pools = {name: x.to(self.device, non_blocking=True) for name, x in images.items()}
            rows = step.rows[kept].to(self.device)
            yield self._batch(_drop(step, kept), rows, views.to(self.device), pools, None, augmentation)

    def _step(self, step: int) -> _Step:
        n, size = self._length, self.batch_size
        if self.total_steps is None:
            epoch, index = divmod(step, self.steps)
            begin = epoch * n + index * size
            end = (epoch + 1) * n if index == self.steps - 1 else begin + size
        else:
            begin, end = step * size, (step + 1) * size
        first, last = begin // n, (end - 1) // n
        rows = self._order(first, last)[begin - first * n : end - first * n]
        epochs = torch.arange(begin, end) // n if first < last else first
        share = slice(len(rows) * self.rank // self.world_size, len(rows) * (self.rank + 1) // self.world_size)
        if not self.mixup:
            own = rows[share]
            return _Step(own, epochs if isinstance(epochs, int) else epochs[share], len(own))
        own = torch.arange(len(rows))[share]
        partners = permutation(len(rows), self.seed, _MIX, step)[share]
        needed = torch.cat([own, partners[~torch.isin(partners, own)]])
        position = torch.empty_like(rows)
        position[needed] = torch.arange(len(needed))
        weight = beta(self.mixup, self.seed, _MIX, step)
        epochs = epochs if isinstance(epochs, int) else epochs[needed]
        return _Step(rows[needed], epochs, len(own), position[partners], weight)

    def _views(self, epoch: int) -> Tensor:
        """View seeds of all samples in an epoch; computed at once, as launching the kernels dominates the cost."""
        if self._view_cache[0] != epoch:
            self._view_cache = epoch, mix(self.seed, _VIEW, epoch, self._ids)
        return self._view_cache[1]

    def _order(self, first: int, last: int) -> Tensor:
        """Rows of the source in the order of these epochs."""
        if self._order_cache[0] != (first, last):
            order = self.sampler or partial(permutation, len(self.source), self.seed, _ORDER)
            self._order_cache = ((first, last), torch.cat([order(epoch) for epoch in range(first, last + 1)]))
        return self._order_cache[1]

    def _batch(
        self, step: _Step, rows: Tensor, views: Tensor, pools: Images, pool_rows: Tensor | None, moves: Augmentation
    ) -> Batch:
        """The samples `rows`, at `pool_rows` of the pools or in their order, all modalities in one view, and mixed."""
        inputs = {
            name: to_unit_range(augment(pool, pool_rows, views, moves), pool.dtype) for name, pool in pools.items()
        }
        targets = None if self._targets is None else self._targets[rows]
        if step.partners is None:
            return Batch(self._ids[rows], views, _unwrap(inputs), targets)
        size, partners = step.size, step.partners.to(self.device)
        inputs = {name: x[partners].lerp_(x[:size], step.weight) for name, x in inputs.items()}
        own, others = (None, None) if targets is None else (targets[:size], targets[partners])
        return Batch(self._ids[rows[:size]], views[:size], _unwrap(inputs), own, step.weight, others)


def _drop(step: _Step, kept: Tensor) -> _Step:
    """A step without the rows that could not be decoded; `kept` are ascending indices into its rows."""
    if step.partners is None or len(kept) == len(step.rows):
        return step
    position = torch.full((len(step.rows),), -1)
    position[kept] = torch.arange(len(kept))
    own = kept[kept < step.size]
    partners = position[step.partners[own]]
    return replace(step, size=len(own), partners=torch.where(partners < 0, torch.arange(len(own)), partners))


def _unwrap(inputs: Images) -> Tensor | Images:
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def _arrays(source: Source) -> Images:
    return {name: x.inputs for name, x in source.modalities.items() if isinstance(x, ArraySource)}


def in_order(
    source: Source, batch_size: int, device: torch.device, workers: int = 0, skipped: dict[str, str] | None = None
) -> Iterator[Batch]:
    """Batches without augmentation in the order of the source, for evaluation.

    Records that cannot be decoded are left out and added to `skipped`, record name -> reason.

    >>> source = ArraySource("toy", (), torch.arange(5), None, (2,), inputs=torch.zeros(5, 2))
    >>> [batch.ids.tolist() for batch in in_order(source, 2, torch.device("cpu"))]
    [[0, 1], [2, 3], [4]]
    """
    batches = torch.arange(len(source)).split(batch_size)
    if isinstance(source, ArraySource):
        arrays = _arrays(source)
        decoded = ((torch.arange(len(rows)), {name: x[rows] for name, x in arrays.items()}) for rows in batches)
    else:
        keys, skipped = ((rows, None) for rows in batches), {} if skipped is None else skipped
        decoded = ((kept, x) for kept, _, x in decode_batches(source, keys, NO_AUGMENTATION, workers, skipped))
    for batch, (kept, images) in zip(batches, decoded, strict=True):
        rows, inputs = batch[kept], {name: to_unit_range(x.to(device)) for name, x in images.items()}
        ids, targets = source.ids[rows].to(device), None if source.targets is None else source.targets[rows]
        yield Batch(ids, torch.zeros_like(ids), _unwrap(inputs), _to(targets, device))


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)


def count_skip_reasons(skipped: Mapping[str, str]) -> dict[str, int]:
    """Number of skipped records per reason, the most frequent first."""
    return dict(Counter(skipped.values()).most_common())


def describe_skipped(part: str, skipped: Mapping[str, str]) -> str:
    """One line on the skipped records of a part.

    >>> describe_skipped("train", {"a.jpg": "empty file", "b.jpg": "not an image", "c.jpg": "empty file"})
    'train: 3 skipped (2 empty file; 1 not an image)'
    """
    reasons = "; ".join(f"{n:,} {why}" for why, n in count_skip_reasons(skipped).items())
    return f"{part}: {len(skipped):,} skipped ({reasons})"
