"""Memory banks: initial rows, and the updates that keep them equal on all ranks."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


def initial_rows(
    count: int, dim: int, seed: int, dtype: torch.dtype, file: Path | None = None, kept: slice = slice(None)
) -> Tensor:
    """(count, dim) random unit vectors, the same on every rank, or only the rows `kept` of them.

    They are in memory, or mapped from a new `file`.
    """
    low, high, _ = kept.indices(count)
    # uniform as in the released code, where the rows' mean square norm is 1; here each row's norm is
    generator = torch.Generator().manual_seed(seed)
    if file is None:
        rows = torch.empty(high - low, dim, dtype=dtype)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = torch.from_file(str(file), shared=True, size=(high - low) * dim, dtype=dtype).view(-1, dim)
    for start in range(0, count, 2**16):
        end = min(start + 2**16, count)
        chunk = F.normalize(torch.rand(end - start, dim, generator=generator) * 2 - 1, dim=1)
        first, last = max(start, low), min(end, high)
        if first < last:
            rows[first - low : last - low] = chunk[first - start : last - start]
    return rows


@torch.no_grad()
def momentum_update(bank: Tensor, rows: Tensor, values: Tensor, momentum: float) -> None:
    """`bank[r] <- normalize(momentum * bank[r] + (1 - momentum) * values)` of (M, D), at rows (B,), in place.

    The values of a row that occurs twice must be equal.

    >>> bank = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> momentum_update(bank, torch.tensor([1]), torch.tensor([[0.0, 1.0]]), momentum=0.5)
    >>> bank[1]
    tensor([0.7071, 0.7071])
    """
    rows, values = rows.to(bank.device), values.to(bank.device)
    old = bank.index_select(0, rows).to(values.dtype)
    bank.index_copy_(0, rows, F.normalize(torch.lerp(values, old, momentum), dim=1).to(bank.dtype))


def first_places(ids: Tensor) -> Tensor:
    """(B,): where each one's id occurs first, (B,).

    A batch may hold a sample twice, where it spans two epochs or a sampler pads the shares of the ranks.

    >>> first_places(torch.tensor([7, 3, 7, 5, 3]))
    tensor([0, 1, 0, 3, 1])
    """
    in_order, index = ids.sort(stable=True)
    places = torch.arange(len(ids), device=ids.device)
    begins = torch.ones_like(in_order, dtype=torch.bool)
    begins[1:] = in_order[1:] != in_order[:-1]
    first = index[torch.where(begins, places, 0).cummax(0).values]
    return torch.empty_like(index).index_copy_(0, index, first)
