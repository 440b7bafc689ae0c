"""Whose row of a bank is which, and which rows may be whose negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.objectives.crd_kernel import Negatives
from understudy.signals import Batch


class Roster(nn.Module):
    """Which sample has which row of a bank, and which rows may be its negatives.

    Rows of one group, which is a class or a single unlabelled sample, are never one another's negatives.
    Nothing of it is saved: it is made from the data again.

    Args:
        size: M, the number of rows.
        ids: (M,) int64, the samples' ids in any order; None where they are 0 .. M - 1.
        targets: (M,) int64, the classes of `ids`, -1 where unlabelled; None where all are.

    Raises:
        ValueError: a repeated id, other lengths than M, or no row that could be a negative.
    """

    BUFFERS = ("known", "groups", "order", "low", "high")

    groups: Tensor
    order: Tensor
    low: Tensor
    high: Tensor
    known: Tensor | None

    def __init__(self, size: int, ids: Tensor | None = None, targets: Tensor | None = None) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"a bank needs at least 2 rows, a sample and a negative; bank_size is {size}")
        for name, given in (("ids", ids), ("targets", targets)):
            if given is not None and given.shape != (size,):
                raise ValueError(f"{name} must hold one number for each of the bank's {size} rows; "
                                 f"their shape is {tuple(given.shape)}")  # fmt: skip
        rows = torch.arange(size)
        if ids is not None:
            ids, place = ids.cpu().sort()
            if bool((ids[1:] == ids[:-1]).any()):
                raise ValueError("samples share an id, so they would share a row of the bank; ids must be unique")
            targets = None if targets is None else targets.cpu()[place]
            ids = None if torch.equal(ids, rows) else ids
        groups = rows if targets is None else torch.where(targets.cpu() >= 0, targets.cpu(), -1 - rows)
        in_order, order = groups.sort()
        if bool(in_order[0] == in_order[-1]):
            raise ValueError("all samples are of one class, so there are no negatives of another class; "
                             "set exclude='sample' to contrast each sample with all others")  # fmt: skip
        self.register_buffer("known", ids, persistent=False)
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("order", order, persistent=False)
        # a sample's own group is order[low:high]
        self.register_buffer("low", torch.searchsorted(in_order, groups), persistent=False)
        self.register_buffer("high", torch.searchsorted(in_order, groups, right=True), persistent=False)

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of samples, (B,) of (B,).

        Raises:
            ValueError: an id that has no row, or that occurs twice.
        """
        size = len(self.groups)
        if self.known is None:
            rows, strange = ids, (ids < 0) | (ids >= size)
        else:
            rows = torch.searchsorted(self.known, ids).clamp_max(size - 1)
            strange = self.known[rows] != ids
        in_order = ids.sort().values
        again = in_order[1:] == in_order[:-1]
        if bool(strange.any() | again.any()):  # one look for both, as it makes an accelerator wait
            if bool(again.any()):
                raise ValueError(f"sample {int(in_order[1:][again][0])} is in the batch more than once; "
                                 "each may be there once, as it has one row of the bank")  # fmt: skip
            wanted = (
                f"ids must be from 0 to {size - 1}" if self.known is None else "it is none of those it was built on"
            )
            raise ValueError(f"sample {int(ids[strange][0])} has no row in the bank: {wanted}")
        return rows

    def negatives(self, rows: Tensor, number: int, *, sampled: bool) -> Negatives:
        """`number` drawn ones for each of some rows, or all that may be at the weight of as many."""
        if sampled:
            return Negatives(ids=self.draw(rows, number))
        return Negatives(groups=self.groups, own=self.groups[rows], counts=self.counts(rows), number=number)

    def counts(self, rows: Tensor) -> Tensor:
        """How many rows may be negatives of each, (B,)."""
        return len(self.groups) - (self.high[rows] - self.low[rows])

    def streams(self, rows: Tensor) -> Tensor:
        """What the draws of some rows follow from, (B,) of (B,): the row, and one number of torch's global generator.

        So a sample's negatives depend neither on the rest of the batch nor on the rank that holds it.
        """
        return mixed(rows + int(torch.randint(2**62, ())))

    def draw(self, rows: Tensor, number: int, streams: Tensor | None = None) -> Tensor:
        """(B, number) rows drawn evenly, with replacement, from each one's possible negatives."""
        streams = self.streams(rows) if streams is None else streams
        size = len(self.order)
        bits = 62 - size.bit_length()  # as many as leave room for a product with the size
        places = torch.arange(number, device=rows.device) * _STEP
        counts, low = self.counts(rows), self.low[rows]
        jump = size - counts
        drawn = torch.empty(len(rows), number, dtype=torch.int64, device=rows.device)
        together = max(1, 2**17 // number)  # pieces that stay in a core's cache
        for start in range(0, len(rows), together):
            piece = slice(start, start + together)
            x = streams[piece, None] + places
            x.bitwise_xor_(x >> 32).mul_(_FACTOR).bitwise_right_shift_(62 - bits).bitwise_and_(2**bits - 1)
            x.mul_(counts[piece, None]).bitwise_right_shift_(bits)
            x.add_((x >= low[piece, None]) * jump[piece, None])
            drawn[piece] = self.order.index_select(0, x.flatten()).view_as(x)
        return drawn


class Queue(nn.Module):
    """A bank's rows by age, for streams: the newest take the place of the oldest.

    Rows of a batch's class are not its negatives; rows without a class are everyone's.

    Args:
        size: the number of rows.
        by_class: whether to look at targets at all.
    """

    groups: Tensor
    place: Tensor

    def __init__(self, size: int, *, by_class: bool = True) -> None:
        super().__init__()
        self.by_class = by_class
        self.register_buffer("groups", torch.full((size,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def groups_of(self, batch: Batch) -> Tensor:
        """Classes (B,), -1 where there is none."""
        if batch.targets is None or not self.by_class:
            return torch.full_like(batch.ids, -1)
        return batch.targets.clamp_min(-1)

    def negatives(self, groups: Tensor, number: int) -> Negatives:
        own = groups.masked_fill(groups < 0, -2)  # no row's group
        counts = (self.groups != own[:, None]).sum(1)
        return Negatives(groups=self.groups, own=own, counts=counts.clamp_min(1), number=number)

    def enter(self, groups: Tensor) -> Tensor:
        """The rows that newcomers get, (B,) of (B,), B at most the size."""
        size = len(self.groups)
        rows = (self.place + torch.arange(len(groups), device=groups.device)) % size
        self.groups[rows] = groups
        self.place.add_(len(groups)).remainder_(size)
        return rows


_STEP, _FACTOR = -0x61C8864680B583EB, -0x40A7B892E31B1A47  # splitmix64's, as signed numbers


def mixed(x: Tensor) -> Tensor:
    """Scrambled 64-bit integers, wrapping around: splitmix64's steps but for the sign that torch shifts in."""
    x = x * _STEP
    x.bitwise_xor_(x >> 30).mul_(_FACTOR)
    x.bitwise_xor_(x >> 27).mul_(-0x6B2FB644ECCEEE15)
    return x.bitwise_xor_(x >> 31)
