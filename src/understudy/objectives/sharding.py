"""Banks that no rank holds whole: each has a block of their rows, and all work on every rank's queries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from understudy.objectives.banks import from_every_rank, rank, ranks
from understudy.objectives.crd_kernel import Compute, Negatives, negative_sums
from understudy.objectives.roster import Roster


class Shard:
    """This rank's block of `size` rows, which are dealt in the order of the ranks.

    A step sends queries and sums around, never rows of the banks but the batch's own: each rank adds up what its rows
    say to the queries of all, and the sums are joined. All of its methods that talk to the other ranks are collective.
    """

    def __init__(self, size: int) -> None:
        self.rank, self.ranks = rank(), ranks()
        if size < self.ranks:
            raise ValueError(f"a bank of {size} rows cannot be sharded over {self.ranks} ranks; leave out sharded")
        self.bounds = [size * number // self.ranks for number in range(self.ranks + 1)]
        self.first, self.end = self.bounds[self.rank], self.bounds[self.rank + 1]

    @property
    def rows(self) -> slice:
        return slice(self.first, self.end)

    def holds(self, rows: Tensor) -> Tensor:
        """Which of some rows are here, (B,) bool of (B,)."""
        return (rows >= self.first) & (rows < self.end)

    def keys(self, banks: Sequence[Tensor], rows: Tensor, like: Tensor) -> list[Tensor]:
        """Each bank's rows (B, D), of any rank's block, in the type of `like`."""
        every, whose = from_every_rank(rows, torch.full_like(rows, self.rank))
        here = self.holds(every)
        found = like.new_zeros(len(banks), len(every), banks[0].shape[1])
        for bank, into in zip(banks, found, strict=True):
            into[here] = bank[(every[here] - self.first).to(bank.device)].to(like)
        _add_up(found)
        return list(found[:, whose == self.rank])

    def negatives(self, roster: Roster, rows: Tensor, number: int, *, sampled: bool) -> Negatives:
        """Of the queries of all ranks, those negatives that are here; the counts are of this rank's queries."""
        if not sampled:
            (every,) = from_every_rank(rows)
            groups = roster.groups
            return Negatives(groups=groups[self.rows], own=groups[every], counts=roster.counts(rows), number=number)
        every, streams = from_every_rank(rows, roster.streams(rows))
        drawn = roster.draw(every, number, streams)
        here = self.holds(drawn)
        # moved to the left, so that only as many columns are left as the fullest query needs
        place = here.cumsum(1)
        width = int(place[:, -1].max()) if len(place) else 0
        ids = drawn.new_full((len(drawn), width + 1), self.end - self.first)
        ids.scatter_(1, torch.where(here, place, 0), drawn - self.first)
        return Negatives(ids=ids[:, 1:], ragged=True)

    def summed(
        self, scaled: Tensor, bank: Tensor, negatives: Negatives, shift: Tensor, compute: Compute
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`negative_sums` of this rank's queries over the rows of all ranks."""
        every, whose = from_every_rank(scaled, torch.full_like(scaled[:, 0], self.rank))
        loss, log_sum, gradient = negative_sums(every, bank, negatives, shift, compute)
        largest = log_sum.clone()
        if self.ranks > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        sums = torch.cat([loss[:, None], (log_sum - largest).exp()[:, None], gradient], 1)
        _add_up(sums)
        mine = whose == self.rank
        loss, exponentials, gradient = sums[mine].split([1, 1, scaled.shape[1]], 1)
        return loss.squeeze(1), exponentials.squeeze(1).log() + largest[mine], gradient

    def whole(self, block: Tensor, device: torch.device) -> Tensor:
        """The whole bank in the first rank's memory; a copy of their own block on the others.

        Args:
            block: this rank's rows.
            device: where ranks can talk; one block of another rank's is there at a time.
        """
        if self.rank:
            dist.send(block.to(device), 0)
            return block.clone()
        joined = torch.empty(self.bounds[-1], block.shape[1], dtype=block.dtype)
        joined[self.rows] = block.cpu()
        for other in range(1, self.ranks):
            low, high = self.bounds[other], self.bounds[other + 1]
            received = torch.empty(high - low, block.shape[1], dtype=block.dtype, device=device)
            dist.recv(received, other)
            joined[low:high] = received.cpu()
        return joined


def _add_up(x: Tensor) -> None:
    if ranks() > 1:
        dist.all_reduce(x)
