"""Batches as pure functions of seeds, independent of the number of ranks and workers and of where a run was resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, tee
from typing import Protocol

import torch
from torch import Tensor

from understudy.data.augment import NO_AUGMENTATION, Augmentation, augment, to_unit_range
from understudy.data.source import ArraySource, RecordSource, Source
from understudy.data.views import Views
from understudy.data.workers import Decoder, Images, after_decoding, decode_batches
from understudy.randomness import permutation
from understudy.signals import Batch

_ORDER = 1  # random stream
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

    rows: Tensor  # (M,) int64 rows of the source: the rank's samples, then MixUp partners that are not among them
    epochs: Tensor | int  # (M,) int64 epoch of each row, or one epoch for all
    size: int  # number of the rank's own samples
    partners: Tensor | None = None  # (size,) int64 MixUp partners as indices into `rows`


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

    The order of the samples is a function of (seed, epoch), their views are functions of (views.seed, view, id) only:
    position p of the stream is sample `permutation(p // n)[p % n]` in its view of epoch p // n, where n is the size of
    the dataset.

    With `total_steps`, all batches are full and may span epochs; without, an epoch may end with a smaller batch, or
    with one of a sample more (see `count_batches`).

    With MixUp, samples that are mixed with each other follow each other in an epoch, so that few partners lie outside a
    rank's share; those are read beside it. A sample whose partner cannot be decoded stays unmixed.
    """

    source: Source
    views: Views
    batch_size: int  # global; each rank takes an equal, contiguous share
    seed: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    total_steps: int | None = None
    skipped: dict[str, str] = field(default_factory=dict)  # record name -> reason, of those not decoded so far
    sampler: EpochSampler | None = None  # None takes all samples in random order
    first_epoch: int = 0  # number of the epoch that step 0 begins
    together: int = 1  # steps whose views are made at once, of arrays without MixUp

    def __post_init__(self) -> None:
        self._targets = _to(self.source.targets, self.device)
        self._ids = self.source.ids.to(self.device)
        self._pools = {name: x.to(self.device) for name, x in _arrays(self.source).items()}
        self._order_cache: tuple[tuple[int, int], Tensor] = ((-1, -1), torch.empty(0))
        self._partner_cache = self._order_cache
        self._view_cache: tuple[int, Tensor] = (-1, torch.empty(0))

    @cached_property
    def decoder(self) -> Decoder:
        """What decodes the records of the source, with workers that live as long as it does."""
        return Decoder(self.source, self.views.augmentation, self.workers)

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
            together = 1 if self.views.mixup else self.together
            while chunk := list(islice(steps, together)):
                yield from self._at_once(chunk)
            return
        steps, ahead = tee(steps)
        keys = ((step.rows, self.views.seeds(step.epochs, self.source.ids[step.rows])) for step in ahead)
        decoded = self.decoder.batches(keys, self.skipped)
        augmentation = after_decoding(self.views.augmentation)
        for step, (kept, views, images) in zip(steps, decoded, strict=True):
            pools = {name: _sent(x, self.device) for name, x in images.items()}
            rows = _sent(step.rows[kept], self.device)
            yield self._batch(_drop(step, kept), rows, _sent(views, self.device), pools, None, augmentation)

    def _at_once(self, steps: Sequence[_Step]) -> Iterator[Batch]:
        """Batches from memory, whose views are made together; one with partners comes alone."""
        epochs, *others = {step.epochs if isinstance(step.epochs, int) else -1 for step in steps}
        rows = _sent(torch.cat([step.rows for step in steps]) if len(steps) > 1 else steps[0].rows, self.device)
        if others or epochs < 0:
            each = [torch.as_tensor(step.epochs, device=step.rows.device).expand(len(step.rows)) for step in steps]
            of_rows = torch.cat(each)
            views = self.views.seeds(_sent(of_rows, self.device), self._ids[rows])
            joint = replace(steps[0], epochs=of_rows)
        else:
            views, joint = self._view_seeds(epochs)[rows], steps[0]
        if len(steps) == 1:
            yield self._batch(joint, rows, views, self._pools, rows, self.views.augmentation)
            return
        size = sum(step.size for step in steps)
        batch = self._batch(replace(joint, size=size), rows, views, self._pools, rows, self.views.augmentation)
        place = 0
        for step in steps:
            yield batch[place : place + step.size]
            place += step.size

    def _step(self, step: int) -> _Step:
        n, size = self._length, self.batch_size
        if self.total_steps is None:
            epoch, index = divmod(step, self.steps)
            begin = epoch * n + index * size
            end = (epoch + 1) * n if index == self.steps - 1 else begin + size
        else:
            begin, end = step * size, (step + 1) * size
        begin, end = begin + self.first_epoch * n, end + self.first_epoch * n
        first, last = begin // n, (end - 1) // n
        rows = self._order(first, last)[begin - first * n : end - first * n]
        epochs = torch.arange(begin, end, device=rows.device) // n if first < last else first
        share = slice(len(rows) * self.rank // self.world_size, len(rows) * (self.rank + 1) // self.world_size)
        rows, epochs = rows[share], epochs if isinstance(epochs, int) else epochs[share]
        return self._with_partners(rows, epochs, first, last) if self.views.mixup else _Step(rows, epochs, len(rows))

    def _with_partners(self, rows: Tensor, epochs: Tensor | int, first: int, last: int) -> _Step:
        """A step with MixUp partners; those that are not among the rows, in the same epoch, are added."""
        n = len(self.source)
        offset = (epochs - first) * n
        keys = offset + rows
        wanted = offset + self._partners(first, last)[keys]
        found = torch.cat([keys, wanted[~torch.isin(wanted, keys)].unique()])
        ordered, places = found.sort()
        return _Step(found % n, found // n + first, len(rows), places[torch.searchsorted(ordered, wanted)])

    def _view_seeds(self, epoch: int) -> Tensor:
        """View seeds of all samples in an epoch; computed at once, as launching the kernels dominates the cost."""
        if self._view_cache[0] != epoch:
            self._view_cache = epoch, self.views.seeds(epoch, self._ids)
        return self._view_cache[1]

    def _partners(self, first: int, last: int) -> Tensor:
        """Rows of the MixUp partners of all samples in these epochs, one epoch after the other."""
        if self._partner_cache[0] != (first, last):
            partners = [self.views.partners(epoch, len(self.source)) for epoch in range(first, last + 1)]
            self._partner_cache = (first, last), torch.cat(partners)
        return self._partner_cache[1]

    def _order(self, first: int, last: int) -> Tensor:
        """Rows of the source in the order of these epochs: on the device where nothing else reads them."""
        if self._order_cache[0] != (first, last):
            order = self.sampler or self._random_order
            rows = torch.cat([order(epoch) for epoch in range(first, last + 1)])
            on_host = self.views.mixup or not isinstance(self.source, ArraySource)
            self._order_cache = ((first, last), rows if on_host else rows.to(self.device))
        return self._order_cache[1]

    def _random_order(self, epoch: int) -> Tensor:
        n = len(self.source)
        if not self.views.mixup:
            return permutation(n, self.seed, _ORDER, epoch)
        pairs = self.views.pairs(epoch, n)
        even = n - n % 2
        shuffled = pairs[:even].view(-1, 2)[permutation(even // 2, self.seed, _ORDER, epoch)]
        return torch.cat([shuffled.flatten(), pairs[even:]])

    def _batch(
        self, step: _Step, rows: Tensor, views: Tensor, pools: Images, pool_rows: Tensor | None, moves: Augmentation
    ) -> Batch:
        """The samples `rows`, at `pool_rows` of the pools or in their order, all modalities in one view, and mixed."""
        inputs = {
            name: to_unit_range(augment(pool, pool_rows, views, moves), pool.dtype) for name, pool in pools.items()
        }
        targets = None if self._targets is None else self._targets[rows]
        size, index = step.size, self.views.index(step.epochs)
        if isinstance(index, Tensor):
            index = _sent(index[:size], self.device)
        if step.partners is None:
            return Batch(self._ids[rows], views, _unwrap(inputs), targets, view_index=index)
        partners, weight = _sent(step.partners, self.device), self.views.weights(views[:size])
        inputs = {name: x[partners].lerp_(x[:size], _like(weight, x)) for name, x in inputs.items()}
        own, others = (None, None) if targets is None else (targets[:size], targets[partners])
        return Batch(self._ids[rows[:size]], views[:size], _unwrap(inputs), own, weight, others, index)


def _like(weight: Tensor, x: Tensor) -> Tensor:
    """Weights (B,) in the dimensions of x (B, ...)."""
    return weight.view(-1, *[1] * (x.dim() - 1))


def _drop(step: _Step, kept: Tensor) -> _Step:
    """A step without the rows that could not be decoded; `kept` are ascending indices into its rows."""
    if len(kept) == len(step.rows):
        return step
    epochs = step.epochs if isinstance(step.epochs, int) else step.epochs[kept]
    if step.partners is None:
        return replace(step, epochs=epochs, size=len(kept))
    position = torch.full((len(step.rows),), -1)
    position[kept] = torch.arange(len(kept))
    own = kept[kept < step.size]
    partners = position[step.partners[own]]
    return replace(
        step, epochs=epochs, size=len(own), partners=torch.where(partners < 0, torch.arange(len(own)), partners)
    )


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


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """The same on a device; a GPU copies it from pinned memory and is not waited for."""
    pinned = device.type == "cuda" and x.device.type == "cpu"
    return x.pin_memory().to(device, non_blocking=True) if pinned else x.to(device)


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)
