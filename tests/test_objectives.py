"""Label and soft-target objectives, each against an independent implementation, including edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from understudy.objectives import (
    KD,
    OBJECTIVES,
    LogitMatching,
    WeightedSum,
    cross_entropy_loss,
    ensemble_log_probs,
    kd_loss,
    logit_matching_loss,
)
from understudy.objectives.kd import Mean
from understudy.signals import Batch, Signals

TEMPERATURES = st.floats(0.5, 50.0)
PAIRS = st.tuples(st.integers(1, 5), st.integers(2, 7)).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=st.floats(-20, 20, width=32)) for _ in range(2)])
)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def plain_kd(z: np.ndarray, v: np.ndarray, t: float) -> float:
    p, q = softmax(v.astype(np.float64) / t), softmax(z.astype(np.float64) / t)
    return t**2 * float((p * (np.log(p) - np.log(q))).sum(1).mean())


def randn(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def batch_of(rows: int, classes: int = 5) -> Batch:
    return Batch(torch.arange(rows), torch.arange(rows), torch.zeros(rows, 1), torch.arange(rows) % classes)


def grad_of(loss: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(loss, x)[0]


@given(PAIRS, TEMPERATURES)
@settings(max_examples=60, deadline=None)
def test_kd_is_t_squared_times_kl(pair: tuple[np.ndarray, np.ndarray], t: float) -> None:
    z, v = pair
    found = kd_loss(torch.tensor(z), torch.tensor(v), t)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(plain_kd(z, v, t), rel=2e-4, abs=2e-6 * t**2)


@given(PAIRS, TEMPERATURES)
@settings(max_examples=60, deadline=None)
def test_kd_gradient(pair: tuple[np.ndarray, np.ndarray], t: float) -> None:
    z, v = torch.tensor(pair[0], requires_grad=True), torch.tensor(pair[1])
    found = grad_of(kd_loss(z, v, t), z)
    p, q = softmax(pair[1].astype(np.float64) / t), softmax(pair[0].astype(np.float64) / t)
    expected = t**2 * (q - p) / t / len(p)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6 * t)


def test_kd_with_itself_is_zero() -> None:
    z = randn(6, 5)
    assert float(kd_loss(z, z + 7.0, 3.0)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_high_temperature_is_logit_matching(seed: int) -> None:
    z, v = randn(4, 10, seed=seed), randn(4, 10, seed=seed + 100)
    z, v = z - z.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    z.requires_grad_(True)
    soft, match = kd_loss(z, v, 1e4), logit_matching_loss(z, v)
    assert match.item() == pytest.approx((0.5 * ((z - v) ** 2).sum(1).mean() / 10).item(), rel=1e-5)
    torch.testing.assert_close(grad_of(match, z), (z - v).detach() / 10 / 4, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad_of(soft, z), (z - v).detach() / 10 / 4, rtol=1e-2, atol=1e-3)
    # the value in float32 loses digits as T^2 grows, so its limit is approached at a lower temperature
    assert kd_loss(z, v, 200.0).item() == pytest.approx(match.item(), rel=2e-2)


def test_logit_matching_ignores_a_shift_of_all_logits() -> None:
    z, v = randn(4, 6), randn(4, 6, seed=1)
    torch.testing.assert_close(logit_matching_loss(z + 5, v - 3), logit_matching_loss(z, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t", [0.5, 1.0, 20.0])
def test_kd_is_finite_for_huge_gaps(t: float) -> None:
    z = torch.tensor([[0.0, 1e4, -1e4], [1e4, 0.0, 0.0]], requires_grad=True)
    v = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1e4, -1e4]])
    loss = kd_loss(z, v, t)
    assert loss.isfinite()
    assert grad_of(loss, z).isfinite().all()
    assert float(loss.detach()) == pytest.approx(t**2 * 1e4 / t, rel=1e-4)  # each row is wrong by a gap of 1e4


def test_half_precision_logits_are_computed_in_full_precision() -> None:
    z, v = randn(8, 10).bfloat16(), randn(8, 10, seed=1).bfloat16()
    found = kd_loss(z, v, 4.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kd_loss(z.float(), v.float(), 4.0))
    assert float(found) == pytest.approx(plain_kd(z.float().numpy(), v.float().numpy(), 4.0), rel=1e-4)


@given(st.integers(1, 4), st.integers(0, 1000), st.floats(0.5, 20.0))
@settings(max_examples=40, deadline=None)
def test_ensembles(members: int, seed: int, t: float) -> None:
    logits = randn(members, 3, 5, seed=seed)
    each = softmax(logits.double().numpy() / t)
    arithmetic = each.mean(0)
    geometric = np.prod(each ** (1 / members), 0)
    geometric /= geometric.sum(1, keepdims=True)
    np.testing.assert_allclose(ensemble_log_probs(logits, t).exp().numpy(), arithmetic, rtol=1e-4)
    np.testing.assert_allclose(ensemble_log_probs(logits, t, "geometric").exp().numpy(), geometric, rtol=1e-4)
    q = softmax(randn(3, 5, seed=seed + 1).double().numpy() / t)
    for mean, p in (("arithmetic", arithmetic), ("geometric", geometric)):
        found = kd_loss(randn(3, 5, seed=seed + 1), logits, t, mean=mean)  # type: ignore[arg-type]
        expected = t**2 * (p * np.log(p / q)).sum(1).mean()
        assert float(found) == pytest.approx(expected, rel=2e-4, abs=2e-6 * t**2)


def test_arithmetic_and_geometric_means_differ() -> None:
    logits = torch.tensor([[[5.0, 0.0, 0.0]], [[0.0, 5.0, 0.0]]])
    difference = ensemble_log_probs(logits) - ensemble_log_probs(logits, mean="geometric")
    assert float(difference.abs().max()) > 0.1


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_equal_members_are_one_member(mean: Mean) -> None:
    z, v = randn(4, 6), randn(4, 6, seed=1)
    one = kd_loss(z, v, 2.0)
    torch.testing.assert_close(kd_loss(z, v.expand(3, -1, -1), 2.0, mean=mean), one, rtol=1e-5, atol=1e-6)
    teacher = Signals(v, members=(Signals(v), Signals(v)))
    torch.testing.assert_close(KD(2.0, mean)(Signals(z), teacher, batch_of(4)), one, rtol=1e-5, atol=1e-6)


def test_logit_matching_averages_the_members_logits() -> None:
    z, a, b = randn(4, 6), randn(4, 6, seed=1), randn(4, 6, seed=2)
    teacher = Signals(randn(4, 6, seed=3), members=(Signals(a), Signals(b)))
    expected = logit_matching_loss(z, (a + b) / 2)
    torch.testing.assert_close(LogitMatching()(Signals(z), teacher, batch_of(4)), expected)


@given(st.integers(1, 12), st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_cross_entropy(rows: int, classes: int, seed: int) -> None:
    z = randn(rows, classes, seed=seed)
    targets = torch.randint(-1, classes, (rows,), generator=torch.Generator().manual_seed(seed))
    log_q = np.log(softmax(z.double().numpy()))
    expected = -sum(log_q[i, y] for i, y in enumerate(targets.tolist()) if y >= 0) / rows
    whole = cross_entropy_loss(z, targets)
    assert float(whole) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    cut = seed % rows
    parts = [s for s in (slice(0, cut), slice(cut, rows)) if len(z[s])]
    joined = sum(len(z[s]) / rows * float(cross_entropy_loss(z[s], targets[s])) for s in parts)
    assert joined == pytest.approx(float(whole), rel=1e-5, abs=1e-6)


def test_label_smoothing_and_gradient_of_unlabeled_rows() -> None:
    z = randn(3, 4).requires_grad_(True)
    targets = torch.tensor([2, -1, 0])
    log_q = np.log(softmax(z.detach().double().numpy()))
    expected = sum(-0.9 * log_q[i, y] - 0.1 * log_q[i].mean() for i, y in ((0, 2), (2, 0))) / 3
    loss = cross_entropy_loss(z, targets, label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    gradient = grad_of(loss, z)
    assert not gradient[1].any()
    assert gradient[0].any()


def test_no_labels_at_all() -> None:
    z = randn(3, 4).requires_grad_(True)
    loss = cross_entropy_loss(z, torch.full((3,), -1))
    assert loss.item() == 0
    assert not grad_of(loss, z).any()
    none = Batch(torch.arange(3), torch.arange(3), torch.zeros(3, 1))
    assert OBJECTIVES["ce"]()(Signals(z), None, none).item() == 0


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        KD(temperature=temperature)


def test_weighted_sum() -> None:
    z = randn(5, 4).requires_grad_(True)
    student, teacher, batch = Signals(z), Signals(randn(5, 4, seed=1)), batch_of(5, 4)
    terms = {"kd": (0.7, OBJECTIVES["kd"]()), "ce": (0.3, OBJECTIVES["ce"]())}
    both = WeightedSum(terms)
    expected = sum(weight * objective(student, teacher, batch) for weight, objective in terms.values())
    assert isinstance(expected, Tensor)
    found = both(student, teacher, batch)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grad_of(found, z), grad_of(expected, z))
    assert both.needs.targets
    assert both.needs.teacher == {"logits"}
    assert WeightedSum({"ce": (1.0, OBJECTIVES["ce"]())}).needs.teacher == frozenset()
