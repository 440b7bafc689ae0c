"""The contrastive loss: values and gradients against the paper's equations, for all computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives import crd_loss
from understudy.objectives.crd.kernel import Compute, is_dense
from understudy.objectives.crd.negatives import NegativeSampler

B, D, M, N, TAU = 5, 6, 40, 12, 0.07
CLASSES = 4


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(randn(*shape, seed=seed, dtype=dtype), dim=-1)


class Case:
    """Embeddings, banks, ids, labels and sampled negatives."""

    def __init__(self, log_z: tuple[float, float] = (1.3, -0.4), dtype: torch.dtype = torch.float64) -> None:
        self.student, self.teacher = (unit(B, D, seed=s, dtype=dtype).requires_grad_() for s in (1, 2))
        self.banks = unit(M, D, seed=3, dtype=dtype), unit(M, D, seed=4, dtype=dtype)
        self.ids = torch.tensor([3, 39, 0, 17, 22])
        self.groups = torch.arange(M) % CLASSES
        self.groups[20:] = -1 - torch.arange(20, M)  # unlabeled: each its own
        draw = torch.Generator().manual_seed(5)
        self.negatives = torch.randint(0, M, (B, N), generator=draw)
        self.log_z = torch.tensor(log_z, dtype=dtype)

    def loss(self, **options: Any) -> Tensor:
        return crd_loss(self.student, self.teacher, self.ids, *self.banks, log_z=self.log_z, **options)

    def grads(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (self.student, self.teacher))

    def others(self, row: int) -> list[int]:
        return [m for m in range(M) if self.groups[m] != self.groups[row]]


def written_out(case: Case, negatives: list[list[int]], weights: list[float], count: int) -> Tensor:
    """The paper's equations, looping over samples and negatives."""

    def h(query: Tensor, key: Tensor, z: Tensor) -> Tensor:
        e = torch.exp(torch.dot(query, key) / TAU) / z
        return e / (e + count / M)

    total = torch.zeros((), dtype=torch.float64)
    for embedding, bank, z in zip((case.student, case.teacher), case.banks[::-1], case.log_z.exp(), strict=True):
        for b in range(B):
            total = total - torch.log(h(embedding[b], bank[case.ids[b]], z))
            for m in negatives[b]:
                total = total - weights[b] * torch.log(1 - h(embedding[b], bank[m], z))
    return total / B


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


every_z = pytest.mark.parametrize("log_z", [(1.3, -0.4), (7.0, 9.0)], ids=["small Z", "large Z"])


@every_z
@pytest.mark.parametrize("compute", ["auto", "dense", "gathered"])
def test_sampled_loss_is_the_papers(compute: Compute, log_z: tuple[float, float]) -> None:
    case = Case(log_z)
    expected = written_out(case, case.negatives.tolist(), [1.0] * B, N)
    found = case.loss(negative_ids=case.negatives, compute=compute)
    assert found.dtype == torch.float64
    same(found, expected)
    for ours, theirs in zip(case.grads(found), case.grads(expected), strict=True):
        same(ours, theirs)


@every_z
@pytest.mark.parametrize("labeled", [True, False])
def test_all_negatives_are_the_expectation_of_sampled_ones(labeled: bool, log_z: tuple[float, float]) -> None:
    """Negatives are drawn uniformly, so the expectation is N times the mean over all possible ones."""
    case = Case(log_z)
    if not labeled:
        case.groups = torch.arange(M)
    others = [case.others(int(row)) for row in case.ids]
    found = case.loss(groups=case.groups if labeled else None, nominal=N)
    expected = written_out(case, others, [N / len(rows) for rows in others], N)
    same(found, expected)
    for ours, theirs in zip(case.grads(found), case.grads(expected), strict=True):
        same(ours, theirs)
    sampler = NegativeSampler(M, targets=case.groups.clamp_min(-1) if labeled else None)
    torch.manual_seed(0)
    draws = torch.stack([case.loss(negative_ids=sampler.draw(case.ids, N)).detach() for _ in range(400)])
    assert abs(float(draws.mean() - found.detach())) < 4 * float(draws.std()) / 20


@pytest.mark.parametrize("options", [{"negative_ids": Case().negatives, "compute": "dense"},
                                     {"negative_ids": Case().negatives, "compute": "gathered"},
                                     {"groups": Case().groups, "nominal": 7}])  # fmt: skip
def test_gradients_against_finite_differences(options: dict[str, Any]) -> None:
    case = Case()

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return crd_loss(student, teacher, case.ids, *case.banks, log_z=case.log_z, temperature=0.3, **options)

    assert torch.autograd.gradcheck(loss, (case.student, case.teacher))


def test_all_computations_and_chunk_sizes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, batch, count = 3000, 7, 700
    banks = unit(rows, D, seed=1), unit(rows, D, seed=2)
    ids = torch.arange(batch) * 100
    negatives = torch.randint(0, rows, (batch, count), generator=torch.Generator().manual_seed(3))

    def values(compute: Compute, **more: Any) -> tuple[Tensor, ...]:
        pair = [unit(batch, D, seed=s).requires_grad_() for s in (4, 5)]
        loss = crd_loss(pair[0], pair[1], ids, *banks, compute=compute, **more)
        return (loss.detach(), *torch.autograd.grad(loss, pair))

    sampled, every = values("dense", negative_ids=negatives), values("auto", groups=torch.arange(rows) % 9)
    monkeypatch.setattr("understudy.objectives.crd.kernel._SCORES", {"cpu": 300 * batch})
    monkeypatch.setattr("understudy.objectives.crd.kernel._MAX_SCORES", 2 * rows)
    for size in (D, 100 * D, 2000 * D):
        monkeypatch.setattr("understudy.objectives.crd.kernel._ROWS", {"cpu": size})
        for compute in ("dense", "gathered"):
            for found, expected in zip(values(compute, negative_ids=negatives), sampled, strict=True):
                same(found, expected)
    for found, expected in zip(values("auto", groups=torch.arange(rows) % 9), every, strict=True):
        same(found, expected)


def test_auto_chooses_the_cheaper_computation() -> None:
    assert is_dense("auto", 50_000, 16_384)
    assert is_dense("auto", 50_000, 4_096)
    assert not is_dense("auto", 1_281_167, 16_384)
    assert is_dense("dense", 1_281_167, 1)
    assert not is_dense("gathered", 50_000, 16_384)


def test_wrong_tensors() -> None:
    case = Case()
    with pytest.raises(ValueError, match="from 0 to 39"):
        crd_loss(case.student, case.teacher, case.ids + 1, *case.banks)
    with pytest.raises(ValueError, match="one group"):
        case.loss(groups=torch.zeros(M, dtype=torch.int64))
