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


def train(objective: CRD, wrapped: Any, rank: int, world: int, steps: range) -> dict[str, Tensor]:
    """Some steps, each rank with its part of the batch; in the last, one rank has no samples."""
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05)
    for number in steps:
        rows = STEPS[number]
        cut = [0, 3, len(rows)] if world == 2 else [0, len(rows)]
        own = rows[cut[rank] : cut[rank + 1]]
        torch.manual_seed(number)
        loss = wrapped(signals(own, 0, number), signals(own, 1, number), batch_of(own))
        (loss * (len(own) * world / len(rows))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(objective.state_dict()) | {f"{k}.": p.detach() for k, p in objective.named_parameters()}


CASES: dict[str, dict[str, Any]] = {
    "all": {},
    "sampled": {"negatives": 9},
    "queue": {"bank": "queue:16"},
    "sharded": {"sharded": True},
    "sharded, sampled": {"sharded": True, "negatives": 9},
    "sharded, gathered": {"sharded": True, "negatives": 9, "compute": "gathered"},
    "sharded, unlabeled": {"sharded": True, "targets": None, "normalizer": "first"},
    "sharded, half": {"sharded": True, "bank_dtype": "bfloat16"},
    "sharded, mapped": {"sharded": True, "bank_folder": "banks"},
}


def one_rank(rank: int, folder: str) -> None:
    """Each case: two steps, the first rank's state loaded by a fresh objective on every rank, and the third step."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.chdir(folder)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, options in CASES.items():
        objective = crd(**options)
        halfway = train(objective, DistributedDataParallel(objective, broadcast_buffers=False), rank, 2, range(2))
        if rank == 0:
            torch.save({key: value for key, value in halfway.items() if not key.endswith(".")}, "state.pt")
        dist.barrier()
        objective = crd(**options, seed=1)
        objective.load_state_dict(torch.load("state.pt", weights_only=True))
        wrapped = DistributedDataParallel(objective, broadcast_buffers=False)
        torch.save(train(objective, wrapped, rank, 2, range(2, 3)), f"{name}-{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(one_rank, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_are_one(two_ranks: Path, name: str) -> None:
    ranks = [torch.load(two_ranks / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    options = {key: value for key, value in CASES[name].items() if key not in ("sharded", "bank_folder")}
    alone = crd(**options)
    expected = train(alone, alone, 0, 1, range(3))
    half = options.get("bank_dtype") == "bfloat16"  # sums in another order may round a bank's number the other way
    for key, value in expected.items():
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-2 if half else 1e-4, atol=4e-3 if half else 1e-5)
        block = slice(M // 2, M) if "sharded" in name and key.startswith("bank") else slice(None)
        assert torch.equal(ranks[1][key], ranks[0][key][block] if key.startswith("bank") else ranks[0][key]), key


def test_one_rank_can_hold_all_shards() -> None:
    for options in ({}, {"negatives": 9}):
        both = [crd(**options, sharded=sharded) for sharded in (False, True)]
        found = [train(objective, objective, 0, 1, range(3)) for objective in both]
        for key, value in found[0].items():
            torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-6)


# --- the bound on mutual information --------------------------------------------------------------------


def test_the_bound_on_mutual_information_rises_with_it() -> None:
    """The mutual information of jointly normal numbers with correlation r is -log(1 - r^2)/2 nats per dimension."""
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
