"""Sharded banks: each rank holds a block of rows and scores the queries of all ranks against it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from understudy.objectives.crd.kernel import Compute, Negatives, negative_sums
from understudy.objectives.crd.negatives import NegativeSampler
from understudy.objectives.ranks import all_gather, rank, world_size


class Shard:
    """This rank's block of the rows of a bank of `size` rows, which are split over the ranks in order.

    A step exchanges queries, sums and the batch's own rows, but no other rows of the banks: each rank computes sums
    over its rows for the queries of all ranks, and these are reduced. All methods that communicate are collective.
    """

    def __init__(self, size: int) -> None:
        self.rank, self.ranks = rank(), world_size()
        if size < self.ranks:
            raise ValueError(f"a bank of {size} rows cannot be sharded over {self.ranks} ranks; leave out sharded")
        self.bounds = [size * number // self.ranks for number in range(self.ranks + 1)]
        self.first, self.end = self.bounds[self.rank], self.bounds[self.rank + 1]
        self.rows = slice(self.first, self.end)

    def holds(self, rows: Tensor) -> Tensor:
        """Whether this rank holds each of the rows, (B,) -> (B,) bool."""
        return (rows >= self.first) & (rows < self.end)

    def keys(self, banks: Sequence[Tensor], rows: Tensor, like: Tensor) -> list[Tensor]:
        """Each bank's rows (B, D), from any rank's block, in the dtype and on the device of `like`."""
        all_rows, owners = all_gather(rows, torch.full_like(rows, self.rank))
        held = self.holds(all_rows)
        keys = like.new_zeros(len(banks), len(all_rows), banks[0].shape[1])
        for bank, out in zip(banks, keys, strict=True):
            out[held] = bank[(all_rows[held] - self.first).to(bank.device)].to(like)
        _all_reduce(keys)
        return list(keys[:, owners == self.rank])

    def negatives(self, sampler: NegativeSampler, rows: Tensor, number: int, *, sampled: bool) -> Negatives:
        """This rank's negatives for the queries of all ranks; `counts` are for this rank's queries."""
        if not sampled:
            (all_rows,) = all_gather(rows)
            groups, counts = sampler.groups, sampler.counts(rows)
            return Negatives(groups=groups[self.rows], query_groups=groups[all_rows], counts=counts, number=number)
        all_rows, streams = all_gather(rows, sampler.streams(rows))
        drawn = sampler.draw(all_rows, number, streams)
        held = self.holds(drawn)
        # left-aligned, so that there are only as many columns as the longest row needs
        column = held.cumsum(1)
        width = int(column[:, -1].max()) if len(column) else 0
        ids = drawn.new_full((len(drawn), width + 1), self.end - self.first)
        ids.scatter_(1, torch.where(held, column, 0), drawn - self.first)
        return Negatives(ids=ids[:, 1:], ragged=True)

    def negative_sums(
        self, scaled: Tensor, bank: Tensor, negatives: Negatives, shift: Tensor, compute: Compute
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`kernel.negative_sums` of this rank's queries over the rows of all ranks."""
        queries, owners = all_gather(scaled, torch.full_like(scaled[:, 0], self.rank))
        loss, log_sum, gradient = negative_sums(queries, bank, negatives, shift, compute)
        maximum = log_sum.clone()
        if self.ranks > 1:
            dist.all_reduce(maximum, dist.ReduceOp.MAX)
        sums = torch.cat([loss[:, None], (log_sum - maximum).exp()[:, None], gradient], 1)
        _all_reduce(sums)
        own = owners == self.rank
        loss, exponentials, gradient = sums[own].split([1, 1, scaled.shape[1]], 1)
        return loss.squeeze(1), exponentials.squeeze(1).log() + maximum[own], gradient

    def gather(self, block: Tensor, device: torch.device) -> Tensor:
        """The whole bank on the first rank, in CPU memory; a copy of its block on every other rank.

        `device` is for communication and holds one other rank's block at a time.
        """
        if self.rank:
            dist.send(block.to(device), 0)
            return block.clone()
        bank = torch.empty(self.bounds[-1], block.shape[1], dtype=block.dtype)
        bank[self.rows] = block.cpu()
        for other in range(1, self.ranks):
            low, high = self.bounds[other], self.bounds[other + 1]
            received = torch.empty(high - low, block.shape[1], dtype=block.dtype, device=device)
            dist.recv(received, other)
            bank[low:high] = received.cpu()
        return bank


def _all_reduce(x: Tensor) -> None:
    if world_size() > 1:
        dist.all_reduce(x)
