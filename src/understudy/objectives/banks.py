"""What a memory bank is made of: its first rows, and how they are moved, alike on every rank."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def first_rows(
    count: int, dim: int, seed: int, dtype: torch.dtype, file: Path | None = None, kept: slice = slice(None)
) -> Tensor:
    """(count, dim) random unit rows, the same on every rank, or those `kept`; mapped from a new file where named."""
    low, high, _ = kept.indices(count)
    # uniform as in the released code, where the rows' mean square norm is 1; here each row's norm is
    draw = torch.Generator().manual_seed(seed)
    if file is None:
        rows = torch.empty(high - low, dim, dtype=dtype)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = torch.from_file(str(file), shared=True, size=(high - low) * dim, dtype=dtype).view(-1, dim)
    for start in range(0, count, 2**16):
        end = min(start + 2**16, count)
        part = F.normalize(torch.rand(end - start, dim, generator=draw) * 2 - 1, dim=1)
        first, last = max(start, low), min(end, high)
        if first < last:
            rows[first - low : last - low] = part[first - start : last - start]
    return rows


@torch.no_grad()
def move_rows(bank: Tensor, rows: Tensor, towards: Tensor, momentum: float) -> None:
    """`bank[r] <- normalise(momentum * bank[r] + (1 - momentum) * towards)`, in place."""
    rows = rows.to(bank.device)
    towards = towards.to(bank.device)
    old = bank.index_select(0, rows).to(towards.dtype)
    bank.index_copy_(0, rows, F.normalize(torch.lerp(towards, old, momentum), dim=1).to(bank.dtype))


def ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if ranks() > 1 else 0


def from_every_rank(*values: Tensor) -> tuple[Tensor, ...]:
    """Each tensor's rows of all ranks, in the order of the ranks, whose batches may differ in size."""
    if ranks() == 1:
        return values
    count = torch.tensor([len(values[0])], device=values[0].device)
    counts = [torch.empty_like(count) for _ in range(ranks())]
    dist.all_gather(counts, count)
    sizes = [int(n) for n in counts]
    joined = []
    for x in values:
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        joined.append(torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]))
    return tuple(joined)


def first_of_each(ids: Tensor) -> Tensor:
    """Places of the first of each id: samplers that pad give a sample to several ranks."""
    in_order, place = ids.sort(stable=True)
    first = torch.ones_like(in_order, dtype=torch.bool)
    first[1:] = in_order[1:] != in_order[:-1]
    return place[first].sort().values
