"""Contrastive representation distillation in training: several ranks, and the bound on mutual information."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from understudy.objectives import CRD, mutual_information_bound
from understudy.signals import Batch, Signals

WIDTHS, D, M, CLASSES = (8, 12), 6, 40, 4


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def signals(rows: Tensor, side: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Signals:
    table = randn(M, WIDTHS[side], seed=10 * seed + side, dtype=torch.float32)
    embedding = table[rows].to(dtype).requires_grad_(side == 0)
    return Signals(torch.zeros(len(rows), CLASSES), embedding)


def batch_of(rows: Tensor, targets: Tensor | None = None) -> Batch:
    return Batch(rows, rows, torch.zeros(len(rows), 1), targets)


def crd(**options: Any) -> CRD:
    torch.manual_seed(0)
    return CRD(*WIDTHS, M, **({"dim": D, "targets": torch.arange(M) % CLASSES} | options))


# --- several ranks --------------------------------------------------------------------------------------

STEPS = [torch.tensor([1, 5, 9, 14, 22, 31, 38]), torch.tensor([2, 5, 8, 33, 0]), torch.tensor([7, 38, 11])]


def train(objective: CRD, wrapped: Any, rank: int, world: int) -> dict[str, Tensor]:
    """Some steps, each rank with its part of the batch; the last leaves one rank without any samples."""
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05)
    for number, rows in enumerate(STEPS):
        cut = [0, 3, len(rows)] if world == 2 else [0, len(rows)]
        own = rows[cut[rank] : cut[rank + 1]]
        torch.manual_seed(number)
        loss = wrapped(signals(own, 0, number), signals(own, 1, number), batch_of(own))
        (loss * (len(own) * world / len(rows))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(objective.state_dict()) | {f"{k}.": p.detach() for k, p in objective.named_parameters()}


def one_rank(rank: int, folder: str, options: dict[str, Any]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    objective = crd(**options)
    wrapped = DistributedDataParallel(objective, broadcast_buffers=False)
    torch.save(train(objective, wrapped, rank, 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"negatives": 9}, {"bank": "queue:16"}], ids=["all", "sampled", "queue"])
def test_two_ranks_are_one(tmp_path: Path, options: dict[str, Any]) -> None:
    spawn(one_rank, (str(tmp_path), options), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = crd(**options)
    expected = train(alone, alone, 0, 1)
    for name, value in expected.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-5)


# --- the bound on mutual information --------------------------------------------------------------------


def test_the_bound_on_mutual_information_rises_with_it() -> None:
    """Pairs of jointly normal numbers with correlation r have -log(1 - r^2)/2 nats in common, each dimension."""
    size, width, bounds = 400, 2, []
    ids = torch.arange(size)
    for correlation in (0.0, 0.6, 0.9, 0.99):
        known = -0.5 * width * math.log(1 - correlation**2)
        x, noise = (randn(size, width, seed=s, dtype=torch.float32) for s in (1, 2))
        y = correlation * x + math.sqrt(1 - correlation**2) * noise
        torch.manual_seed(0)
        objective = CRD(width, width, size, dim=8, temperature=0.3, momentum=0.0)
        optimizer = torch.optim.Adam(objective.parameters(), lr=0.05)
        losses = []
        for _ in range(120):
            loss = objective(Signals(x, x), Signals(y, y), batch_of(ids))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        bound = float(mutual_information_bound(losses[-1], objective.number))
        assert bound <= known + 0.15  # of a finite sample
        bounds.append(bound)
    assert all(b > a + 0.1 for a, b in pairwise(bounds))
