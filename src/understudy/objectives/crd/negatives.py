"""Which row of a bank belongs to which sample, and which rows can be its negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.objectives.crd.kernel import Negatives
from understudy.signals import Batch


class NegativeSampler(nn.Module):
    """Maps samples to the M rows of a bank and draws their negatives.

    Rows of the same group, which is a class or a single unlabeled sample, are never each other's negatives.
    `ids` (M,) int64 may be in any order, by default 0 .. M - 1; `targets` (M,) are their classes, -1 if unlabeled.
    The buffers are not saved: they are rebuilt from the data. `seed`, a scalar in [0, 2^62), takes the place of draws
    from torch's global generator: a step that was captured in a graph reads it from there.

    >>> sampler = NegativeSampler(4, ids=torch.tensor([10, 20, 30, 40]), targets=torch.tensor([0, 0, 1, 1]))
    >>> rows = sampler.rows(torch.tensor([30, 10]))
    >>> rows, sampler.counts(rows)
    (tensor([2, 0]), tensor([2, 2]))
    """

    BUFFERS = ("known", "groups", "order", "low", "high")

    groups: Tensor
    order: Tensor
    low: Tensor
    high: Tensor
    known: Tensor | None
    missing: Tensor
    seed: Tensor | None = None

    def __init__(self, size: int, ids: Tensor | None = None, targets: Tensor | None = None) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"a bank needs at least 2 rows, a sample and a negative; bank_size is {size}")
        for name, values in (("ids", ids), ("targets", targets)):
            if values is not None and values.shape != (size,):
                raise ValueError(f"{name} must hold one number for each of the bank's {size} rows; "
                                 f"their shape is {tuple(values.shape)}")  # fmt: skip
        rows = torch.arange(size)
        if ids is not None:
            ids, place = ids.cpu().sort()
            if bool((ids[1:] == ids[:-1]).any()):
                raise ValueError("several samples have the same id, but each has one row of the bank: make ids unique")
            targets = None if targets is None else targets.cpu()[place]
            ids = None if torch.equal(ids, rows) else ids
        groups = rows if targets is None else torch.where(targets.cpu() >= 0, targets.cpu(), -1 - rows)
        in_order, order = groups.sort()
        if bool(in_order[0] == in_order[-1]):
            raise ValueError("all samples are of one class, so there are no negatives of other classes; "
                             "set exclude='sample' to contrast each sample with all others")  # fmt: skip
        # a sample's own group is order[low:high]
        low, high = (torch.searchsorted(in_order, groups, right=right) for right in (False, True))
        for name, buffer in zip(self.BUFFERS, (ids, groups, order, low, high), strict=True):
            self.register_buffer(name, buffer, persistent=False)
        self.register_buffer("missing", torch.zeros((), dtype=torch.bool), persistent=False)

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of samples, (B,) ids -> (B,); raises a ValueError if an id has no row.

        Accelerators only note it, for `check`: raising at once would mean to wait for the device in every step.
        """
        size = len(self.groups)
        if self.known is None:
            rows, unknown = ids, (ids < 0) | (ids >= size)
        else:
            rows = torch.searchsorted(self.known, ids).clamp_max(size - 1)
            unknown = self.known[rows] != ids
        if ids.device.type != "cpu":
            self.missing.logical_or_(unknown.any())
            return rows.clamp(0, size - 1)
        if bool(unknown.any()):
            why = f"ids must be from 0 to {size - 1}" if self.known is None else "the bank was built without it"
            raise ValueError(f"sample {int(ids[unknown][0])} has no row in the bank: {why}")
        return rows

    def check(self) -> None:
        """Raise a ValueError if `rows` noted one on an accelerator, which is waited for."""
        if bool(self.missing):
            raise ValueError("a sample has no row in the bank: it was built without it")

    def negatives(self, rows: Tensor, number: int, *, sampled: bool) -> Negatives:
        """The negatives of some rows: `number` drawn ones each, or all possible ones weighted as that many."""
        if sampled:
            return Negatives(ids=self.draw(rows, number))
        return Negatives(groups=self.groups, query_groups=self.groups[rows], counts=self.counts(rows), number=number)

    def counts(self, rows: Tensor) -> Tensor:
        """How many possible negatives each row has, (B,)."""
        return len(self.groups) - (self.high[rows] - self.low[rows])

    def streams(self, rows: Tensor) -> Tensor:
        """Seeds of the rows' draws, (B,) -> (B,), from the row and one number of torch's global generator.

        A sample's negatives thus depend neither on the rest of the batch nor on its rank.
        """
        return hash_int64(rows + (int(torch.randint(2**62, ())) if self.seed is None else self.seed))

    def draw(self, rows: Tensor, number: int, streams: Tensor | None = None) -> Tensor:
        """(B, number) rows drawn uniformly, with replacement, from the possible negatives of each row."""
        streams = self.streams(rows) if streams is None else streams
        size = len(self.order)
        bits = 62 - size.bit_length()  # the largest number whose product with the size fits
        places = torch.arange(number, device=rows.device) * _STEP
        counts, low = self.counts(rows), self.low[rows]
        jump = size - counts
        drawn = torch.empty(len(rows), number, dtype=torch.int64, device=rows.device)
        chunk = max(1, 2**17 // number)  # rows at a time, to stay in a core's cache
        for start in range(0, len(rows), chunk):
            piece = slice(start, start + chunk)
            x = streams[piece, None] + places
            x.bitwise_xor_(x >> 32).mul_(_FACTOR).bitwise_right_shift_(62 - bits).bitwise_and_(2**bits - 1)
            x.mul_(counts[piece, None]).bitwise_right_shift_(bits)
            x.add_((x >= low[piece, None]) * jump[piece, None])
            drawn[piece] = self.order.index_select(0, x.flatten()).view_as(x)
        return drawn


class Queue(nn.Module):
    """A first-in, first-out bank, for streams: the newest rows replace the oldest.

    Rows of a query's class are not its negatives, unless `by_class` is off; rows without a class always are.
    """

    groups: Tensor
    place: Tensor

    def __init__(self, size: int, *, by_class: bool = True) -> None:
        super().__init__()
        self.by_class = by_class
        self.register_buffer("groups", torch.full((size,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def groups_of(self, batch: Batch) -> Tensor:
        """Classes (B,), -1 for unlabeled samples."""
        if batch.targets is None or not self.by_class:
            return torch.full_like(batch.ids, -1)
        return batch.targets.clamp_min(-1)

    def negatives(self, groups: Tensor, number: int) -> Negatives:
        query_groups = groups.masked_fill(groups < 0, -2)  # no row's group
        counts = (self.groups != query_groups[:, None]).sum(1)
        return Negatives(groups=self.groups, query_groups=query_groups, counts=counts.clamp_min(1), number=number)

    def enqueue(self, groups: Tensor) -> Tensor:
        """The rows that new samples replace, (B,) classes -> (B,), B at most the size."""
        size = len(self.groups)
        rows = (self.place + torch.arange(len(groups), device=groups.device)) % size
        self.groups[rows] = groups
        self.place.add_(len(groups)).remainder_(size)
        return rows


_STEP, _FACTOR = -0x61C8864680B583EB, -0x40A7B892E31B1A47  # splitmix64's constants, as signed integers


def hash_int64(x: Tensor) -> Tensor:
    """Hash int64 values like splitmix64, except that torch's right shift extends the sign."""
    x = x * _STEP
    x.bitwise_xor_(x >> 30).mul_(_FACTOR)
    x.bitwise_xor_(x >> 27).mul_(-0x6B2FB644ECCEEE15)
    return x.bitwise_xor_(x >> 31)
