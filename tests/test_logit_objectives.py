"""Logit-based objectives and SimKD, each against an independent float64 implementation, including edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from understudy.objectives import (
    DIST,
    DKD,
    KD,
    BuildContext,
    LogitMatching,
    LogitStandardization,
    Objective,
    SimKD,
    dist_loss,
    dkd_loss,
    kd_loss,
    simkd_loss,
    standardize_logits,
)
from understudy.objectives.logit_standardization import standardize_signals
from understudy.signals import Batch, Shapes, Signals

CONTEXT = BuildContext(
    student=Shapes(5, 8, {"layer1": (4, 8, 8), "layer2": (6, 4, 4)}),
    teacher=Shapes(5, 12, {"stage1": (6, 8, 8), "stage2": (10, 2, 2)}),
    ids=torch.arange(20),
)


def randn(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def batch_of(targets: Tensor | None, rows: int = 0) -> Batch:
    rows = rows if targets is None else len(targets)
    return Batch(torch.arange(rows), torch.arange(rows), torch.zeros(rows, 1), targets)


def probs(logits: Tensor, temperature: float) -> np.ndarray:
    z = logits.double().numpy() / temperature
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def plain_dkd(z: Tensor, v: Tensor, targets: list[int], alpha: float, beta: float, t: float) -> float:
    """Row by row, as the paper defines it."""
    total = 0.0
    for p, q, y in zip(probs(v, t), probs(z, t), targets, strict=True):
        if y < 0:
            total += kl(p, q)
            continue
        tckd = kl(np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]]))
        p, q = np.delete(p, y), np.delete(q, y)
        total += alpha * tckd + beta * kl(p / p.sum(), q / q.sum())
    return t**2 * total / len(targets)


# --- DKD ------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(2, 7), st.integers(0, 1000), st.sampled_from([1.0, 4.0, 10.0]))
@settings(max_examples=50, deadline=None)
def test_dkd(rows: int, classes: int, seed: int, t: float) -> None:
    z, v = randn(rows, classes, seed=seed), randn(rows, classes, seed=seed + 1)
    targets = torch.randint(-1, classes, (rows,), generator=torch.Generator().manual_seed(seed))
    expected = plain_dkd(z, v, targets.tolist(), 1.5, 6.0, t)
    found = dkd_loss(z, v, targets, alpha=1.5, beta=6.0, temperature=t)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(expected, rel=5e-4, abs=1e-5 * t**2)


def test_dkd_decomposes_kd() -> None:
    """Equation 6: KL = TCKD + (1 - p_y) NCKD, for a row whose teacher is known."""
    z, v = randn(1, 6), randn(1, 6, seed=1)
    y = torch.tensor([2])
    rest = float(1 - probs(v, 4.0)[0, 2])
    torch.testing.assert_close(dkd_loss(z, v, y, alpha=1.0, beta=rest), kd_loss(z, v, 4.0))


def test_dkd_without_labels_is_kd() -> None:
    z, v = randn(5, 6), randn(5, 6, seed=1)
    expected = kd_loss(z, v, 4.0)
    torch.testing.assert_close(dkd_loss(z, v, None), expected)
    torch.testing.assert_close(dkd_loss(z, v, torch.full((5,), -1)), expected)
    torch.testing.assert_close(DKD()(Signals(z), Signals(v), batch_of(None, 5)), expected)


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("gap", [120.0, 1e4])
def test_dkd_at_huge_gaps(gap: float, t: float) -> None:
    z = torch.tensor([[0.0, gap, -gap], [gap, 0.0, 0.0], [gap, 0.0, -gap]], requires_grad=True)
    v = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, -gap], [0.0, gap, -gap]])
    loss = dkd_loss(z, v, torch.tensor([0, 1, -1]), temperature=t)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    # TCKD of rows 0 and 1 is gap / T, row 2 costs that by soft targets; NCKD: log 2 spread over a gap of 2 gap / T
    nckd = (gap / t - np.log(2)) + 0.0
    assert loss.item() == pytest.approx(t**2 * (3 * gap / t + 8 * nckd) / 3, rel=1e-3)


def test_dkd_of_an_ensemble_averages_distributions_at_the_temperature() -> None:
    z, a, b = randn(4, 5), randn(4, 5, seed=1), randn(4, 5, seed=2)
    y = torch.tensor([0, 1, 2, -1])
    joined = torch.from_numpy(4.0 * np.log((probs(a, 4.0) + probs(b, 4.0)) / 2))
    teacher = Signals(randn(4, 5, seed=3), members=(Signals(a), Signals(b)))
    found = DKD()(Signals(z), teacher, batch_of(y))
    assert float(found) == pytest.approx(plain_dkd(z, joined, y.tolist(), 1.0, 8.0, 4.0), rel=1e-4)


# --- DIST -----------------------------------------------------------------------------------------------


@given(st.integers(2, 6), st.integers(2, 7), st.integers(0, 1000), st.sampled_from([1.0, 4.0]))
@settings(max_examples=40, deadline=None)
def test_dist(rows: int, classes: int, seed: int, t: float) -> None:
    z, v = randn(rows, classes, seed=seed, scale=2.0), randn(rows, classes, seed=seed + 1, scale=2.0)
    q, p = probs(z, t), probs(v, t)
    inter = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    intra = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    found = dist_loss(z, v, beta=0.7, gamma=1.3, temperature=t)
    assert float(found) == pytest.approx(t**2 * (0.7 * inter + 1.3 * intra), rel=1e-3, abs=1e-4 * t**2)


def test_dist_of_itself_and_of_constants() -> None:
    z = randn(6, 5)
    assert float(dist_loss(z, z + 3.0)) == pytest.approx(0, abs=1e-5)
    flat = torch.zeros(6, 5, requires_grad=True)
    loss = dist_loss(flat, z)
    assert loss.item() == pytest.approx(2.0)
    assert torch.autograd.grad(loss, flat)[0].isfinite().all()
    assert float(dist_loss(z[:1], z[:1])) == pytest.approx(1.0, abs=1e-5), "one sample has no intra-class relation"


@pytest.mark.parametrize("gap", [120.0, 1e4])
def test_dist_at_huge_gaps(gap: float) -> None:
    z = (randn(6, 5) * gap).requires_grad_(True)
    loss = dist_loss(z, randn(6, 5, seed=1) * gap)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


@pytest.mark.parametrize("objective", [DKD, DIST])
def test_temperature_must_be_positive(objective: type[DKD | DIST]) -> None:
    with pytest.raises(ValueError, match="temperature"):
        objective(temperature=0.0)


# --- standardized logits --------------------------------------------------------------------------------


def test_standardized_logits() -> None:
    z = randn(4, 6, scale=50.0)
    plain = z.double().numpy()
    expected = (plain - plain.mean(1, keepdims=True)) / plain.std(1, keepdims=True, ddof=1)
    np.testing.assert_allclose(standardize_logits(z).numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(standardize_logits(7 * z + 30), standardize_logits(z), rtol=1e-4, atol=1e-5)


def test_equal_logits_are_standardized_to_zeros_with_a_finite_gradient() -> None:
    z = torch.full((2, 4), 3.0, requires_grad=True)
    loss = LogitStandardization()(Signals(z), Signals(randn(2, 4)), batch_of(None, 2))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, z)[0].isfinite().all()
    assert not standardize_logits(z.detach()).any()


@pytest.mark.parametrize("inner", [KD(2.0), DKD(temperature=2.0), DIST(), LogitMatching()])
def test_standardization_is_the_inner_objective_of_z_scores(inner: Objective) -> None:
    z, a, b = randn(4, 5), randn(4, 5, seed=1), randn(4, 5, seed=2)
    batch = batch_of(torch.tensor([0, 1, 2, -1]))
    objective = LogitStandardization(inner)
    members = tuple(Signals(standardize_logits(x)) for x in (a, b))
    for teacher, scored in (
        (Signals(a), members[0]),
        (Signals(a, members=(Signals(a), Signals(b))), Signals(standardize_logits(a), members=members)),
    ):
        expected = inner(Signals(standardize_logits(z)), scored, batch)
        torch.testing.assert_close(objective(Signals(z), teacher, batch), expected)
    assert (objective.needs, objective.per_sample) == (inner.needs, inner.per_sample)


def test_standardized_signals_keep_the_rest() -> None:
    signals = Signals(randn(2, 3), randn(2, 8), {"x": randn(2, 4)}, (Signals(randn(2, 3), randn(2, 9)),))
    found = standardize_signals(signals)
    assert found.embedding is signals.embedding
    assert found.features is signals.features
    assert found.members[0].embedding is signals.members[0].embedding


def test_the_inner_objective_by_name() -> None:
    objective = LogitStandardization.from_shapes(CONTEXT, inner="dkd", beta=2.0, temperature=3.0)
    assert isinstance(objective.inner, DKD)
    assert (objective.inner.beta, objective.inner.temperature) == (2.0, 3.0)
    default = LogitStandardization.from_shapes(CONTEXT).inner
    assert isinstance(default, KD)
    assert default.temperature == 2.0
    with pytest.raises(ValueError, match=r"'dkdd'.*dkd"):
        LogitStandardization.from_shapes(CONTEXT, inner="dkdd")
    with pytest.raises(ValueError, match="SimKD reads no logits"):
        LogitStandardization.from_shapes(CONTEXT, inner="simkd")


# --- SimKD ----------------------------------------------------------------------------------------------


def test_simkd_is_the_squared_distance_to_the_projection() -> None:
    objective = SimKD.from_shapes(CONTEXT)
    student, teacher = Signals(randn(6, 5), randn(6, 8)), Signals(randn(6, 5), randn(6, 12, seed=1))
    found = objective(student, teacher, batch_of(None, 6))
    assert student.embedding is not None
    assert teacher.embedding is not None
    expected = F.mse_loss(objective.projector(student.embedding), teacher.embedding)
    torch.testing.assert_close(found, expected)
    assert objective.embedding(student).shape == (6, 12)
    widths = [(m.in_features, m.out_features) for m in objective.projector.modules() if isinstance(m, nn.Linear)]
    assert widths == [(8, 6), (6, 6), (6, 12)]


@pytest.mark.parametrize(("student_tap", "teacher_tap", "places"), [("layer1", "stage2", 2), ("layer2", "stage1", 4)])
def test_simkd_of_feature_maps(student_tap: str, teacher_tap: str, places: int) -> None:
    objective = SimKD.from_shapes(CONTEXT, student_tap=student_tap, teacher_tap=teacher_tap)
    s, t = CONTEXT.student.features[student_tap], CONTEXT.teacher.features[teacher_tap]
    student = Signals(randn(3, 5), features={student_tap: randn(3, *s)})
    teacher = Signals(randn(3, 5), features={teacher_tap: randn(3, *t, seed=1)})
    projected = objective.project(student)
    assert projected.shape == (3, t[0], places, places)
    pooled = F.adaptive_avg_pool2d(teacher.features[teacher_tap], places)
    expected = float(((projected.detach().double() - pooled.double()) ** 2).mean())
    assert float(objective(student, teacher, batch_of(None, 3)).detach()) == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(simkd_loss(projected, pooled), simkd_loss(projected, teacher.features[teacher_tap]))
    assert objective.embedding(student).shape == (3, t[0])


def test_simkd_of_one_row() -> None:
    objective = SimKD.from_shapes(CONTEXT)
    loss = objective(Signals(randn(1, 5), randn(1, 8)), Signals(randn(1, 5), randn(1, 12)), batch_of(None, 1))
    loss.backward()
    assert loss.isfinite()
    assert all(m.training for m in objective.modules())


def test_simkd_error_messages() -> None:
    with pytest.raises(ValueError, match="two vectors or two feature maps"):
        SimKD.from_shapes(CONTEXT, student_tap="layer1")
    with pytest.raises(ValueError, match="no tap 'layer9'; it has layer1, layer2, embedding"):
        SimKD.from_shapes(CONTEXT, student_tap="layer9", teacher_tap="stage1")
    with pytest.raises(ValueError, match="teacher's signals lack 'embedding'"):
        SimKD.from_shapes(CONTEXT)(Signals(randn(2, 5), randn(2, 8)), Signals(randn(2, 5)), batch_of(None, 2))
