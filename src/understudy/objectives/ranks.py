"""What the objectives of several ranks tell one another: their parts of a batch."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of ranks; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among the ranks, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(*values: Tensor) -> tuple[Tensor, ...]:
    """Concatenate each tensor's rows over all ranks, in rank order; batch sizes may differ between ranks.

    The values are of the same number of rows. Gradients reach this rank's own rows. Every rank computes the same loss
    of the joint batch, so these gradients are complete, and nothing is exchanged in the backward pass. They are scaled
    by the inverse of this rank's share of the rows: where gradients are averaged over the ranks in proportion to these
    shares, as `DistributedDataParallel` does for equal shares, the result is the gradient of one process.

    >>> x = torch.ones(2, 3)
    >>> all_gather(x)[0] is x  # one rank has the whole batch
    True
    """
    if world_size() == 1:
        return values
    count = torch.tensor([len(values[0])], device=values[0].device)
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    sizes = [int(n) for n in counts]
    return tuple(cast(Tensor, _Gather.apply(x, sizes)) for x in values)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        first = sum(sizes[: rank()])
        ctx.own, ctx.scale = slice(first, first + len(x)), sum(sizes) / max(len(x), 1)
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient[ctx.own] * ctx.scale, None
