"""Class correlations and CKA against independent formulas, and class correlations on the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from test_report import EVIL, Audit, page, whole
from understudy import evaluation as ev
from understudy.data import ArraySource
from understudy.errors import UnderstudyError
from understudy.evaluation.correlation import correlation_maps, mean_logits
from understudy.evaluation.facts import RunFacts
from understudy.models import Network
from understudy.reporting.heatmaps import section
from understudy.reporting.summary import lines
from understudy.signals import Batch, Signals
from understudy.teachers import Ensemble, Teacher


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- class correlation


@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_class_correlation_is_numpys(seed: int, n: int, classes: int) -> None:
    logits = draw(n, classes, seed=seed) @ draw(classes, classes, seed=seed + 1) + 100
    found = ev.class_correlation(logits)
    np.testing.assert_allclose(found, np.corrcoef(logits.numpy(), rowvar=False), atol=1e-9)
    torch.testing.assert_close(ev.class_correlation(logits * 3 - 7), found)
    other = ev.class_correlation(draw(n, classes, seed=seed + 2))
    expected = np.mean([abs(found[i, j] - other[i, j]) for i in range(classes) for j in range(classes) if i != j])
    assert ev.correlation_difference(found, other) == pytest.approx(expected)
    assert ev.correlation_difference(found, found) == 0


def test_a_logit_that_never_changes_correlates_with_nothing() -> None:
    logits = torch.stack([torch.full((7,), 0.1), torch.arange(7.0), -torch.arange(7.0)], 1)
    expected = torch.tensor([[1.0, 0, 0], [0, 1, -1], [0, -1, 1]], dtype=torch.float64)
    torch.testing.assert_close(ev.class_correlation(logits), expected)
    assert ev.correlation_difference(torch.ones(1, 1), torch.ones(1, 1)) == 0
    unfinished = ev.class_correlation(torch.full((5, 3), float("nan")))
    assert torch.equal(unfinished, torch.eye(3, dtype=torch.float64))


def test_an_ensemble_is_correlated_by_its_members_mean(
    small_network: Callable[..., Network], small_images: ArraySource
) -> None:
    nets = [small_network("mlp:5x1"), small_network("mlp:7x1")]
    source = small_images
    panel = Ensemble([Teacher(net) for net in nets])
    facts = ev.score_models(source, {"alone-0": nets[0], "distilled-crd-0": nets[1]}, panel, nets, None)
    said = [ev.predict_logits(net, source, device=torch.device("cpu")).logits.double() for net in nets]
    expected = np.corrcoef(((said[0] + said[1]) / 2).numpy(), rowvar=False)
    for row, logits in zip(facts["rows"][1:], said, strict=True):
        gap = np.abs(np.corrcoef(logits.numpy(), rowvar=False) - expected)
        assert row["seeds"][0]["correlation_difference"] == pytest.approx(gap.sum() / 6, abs=1e-6)
    maps = facts["correlations"]
    np.testing.assert_allclose(maps["maps"][0]["matrix"], expected, atol=6e-4)
    assert [one["name"] for one in maps["maps"]] == ["teacher", "student alone", "crd"]
    assert [one["name"] for one in maps["differences"]] == ["student alone", "crd"]
    assert "correlation_difference" not in facts["rows"][0]["seeds"][0]
    assert [row["seeds"][0].get("cka") for row in facts["rows"]] == [None] * 3, "several teachers have no one layer"
    one = ev.score_models(source, {"alone-0": nets[0].watch({"1"})}, Teacher(nets[1]), nets[1:], None)
    layers = [ev.extract_embeddings({"net": net}, source).by_network["net"] for net in nets]
    assert one["rows"][1]["seeds"][0]["cka"] == pytest.approx(ev.linear_cka(*layers), abs=1e-6)
    assert nets[0].signals == {"1"}, "it watches what it watched before"
    lone = ev.score_models(source, {"model-0": nets[0]}, None, [], None)
    assert lone["correlations"] is None
    assert not section(RunFacts.from_json({"name": "run", "kind": "train"} | lone))
    assert mean_logits(Signals(torch.ones(2, 3))).shape == (2, 3)


def test_maps_are_means_over_seeds_and_pairs_are_the_teachers() -> None:
    teacher = torch.tensor([[1, 0.5, 0.25], [0.5, 1, -0.5], [0.25, -0.5, 1]], dtype=torch.float64)
    seeds = [teacher.roll(1, 0), teacher.roll(1, 1)]
    found = correlation_maps(teacher, [("a", "distilled", seeds), ("b", "distilled", seeds[:1])], ("x", "y", "z"))
    assert [pair["classes"] for pair in found["pairs"]] == [["x", "y"], ["x", "z"], ["y", "z"]]
    mean, gap = (seeds[0] + seeds[1]) / 2, (seeds[0] - teacher).abs() / 2 + (seeds[1] - teacher).abs() / 2
    assert [one["name"] for one in found["maps"]] == ["teacher", "a"]
    assert found["pairs"][0]["values"] == [0.5, round(mean[0, 1].item(), 4)]
    np.testing.assert_allclose(found["maps"][1]["matrix"], mean, atol=5e-4)
    np.testing.assert_allclose(found["differences"][0]["matrix"], gap, atol=5e-4)


# ---- on the page


def with_maps(classes: list[str], methods: int = 1) -> RunFacts:
    matrix = ev.class_correlation(draw(200, len(classes)))
    names = ["distilled", *(f"method {i}" for i in range(1, methods))]
    students = [("student alone", "alone", [matrix]), *((name, "distilled", [matrix]) for name in names)]
    rows = whole()["rows"]
    rows[1]["name"] = "student alone"
    rows[2]["seeds"][0]["correlation_difference"] = 0.25
    found = correlation_maps(matrix.T, students, classes)
    return RunFacts.from_json(whole(rows=rows, correlations=json.loads(json.dumps(found))))


@pytest.mark.parametrize(("count", "methods"), [(2, 1), (3, 2), (30, 2), (250, 8)])
def test_maps_on_the_page(count: int, methods: int) -> None:
    classes = [EVIL, *(f"a class of a rather long name {i}" for i in range(1, count))]
    facts = with_maps(classes, methods)
    html = page(facts)
    audit = Audit(html)
    assert "script" not in audit.tags
    assert html.count('<div class="heat">') == 3 + 1 + methods
    assert ("&lt;script&gt;" in html.partition('id="correlations"')[2].partition("<h3>")[0]) is (count <= 24)
    assert len(html.encode()) < 500_000
    assert ("in blocks of neighbors" in html) is (count > 100)
    assert ("class correlation difference" in html) is any(line.label == "Correlation Δ" for line in lines(facts))


def test_no_maps_without_a_teacher() -> None:
    html = page(RunFacts.from_json(whole()))
    assert 'id="correlations"' not in html
    assert "Correlation Δ" not in html


@pytest.mark.parametrize(
    "change",
    [
        {"maps": []},
        {"maps": [{"name": "t", "role": "teacher", "matrix": [[1, 0]]}]},
        {"maps": [{"name": "t", "role": "teacher", "matrix": []}]},
        {"pairs": [{"classes": ["a", "b"], "values": [1, 2]}]},
    ],
)
def test_wrong_maps_are_named(change: dict[str, Any]) -> None:
    good = {"classes": ["a"], "maps": [{"name": "t", "role": "teacher", "matrix": [[1]]}]}
    with pytest.raises(UnderstudyError, match="correlations"):
        RunFacts.from_json(whole(correlations=good | change))


# ---- CKA


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Equation 3: tr(K H L H) / (n - 1)^2."""
    n = len(k)
    h = np.eye(n) - 1 / n
    return float(np.trace(k @ h @ m @ h)) / (n - 1) ** 2


def plain_cka(x: Tensor, y: Tensor) -> float:
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    return hsic(k, m) / (hsic(k, k) * hsic(m, m)) ** 0.5


shapes = st.tuples(st.integers(3, 30), st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6))


@given(shapes, st.floats(-50, 50), st.floats(0.01, 100))
@settings(max_examples=50, deadline=None)
def test_cka_is_the_hsic_formula_and_ignores_rotation_scale_and_shift(
    drawn: tuple[int, int, int, int], shift: float, scale: float
) -> None:
    n, d, e, seed = drawn
    x = draw(n, d, seed=seed)
    y = x @ draw(d, e, seed=seed + 1) + draw(n, e, seed=seed + 2) + shift
    found = ev.linear_cka(x, y)
    assert found == pytest.approx(plain_cka(x, y), rel=1e-6, abs=1e-9)
    assert 0 <= found <= 1
    rotation = torch.linalg.qr(draw(d, d, seed=seed + 3)).Q
    assert ev.linear_cka(scale * x @ rotation + shift, y) == pytest.approx(found, rel=1e-6, abs=1e-9)
    assert ev.linear_cka(y, x) == pytest.approx(found, rel=1e-9, abs=1e-12)
    assert ev.linear_cka(x, x) == pytest.approx(1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_batches_add_up_to_the_whole(sizes: list[int], seed: int) -> None:
    x, y = draw(sum(sizes), 3, seed=seed) + 1e6, draw(sum(sizes), 2, seed=seed + 1) - 1e6
    parts, whole_ = ev.Covariance(), ev.Covariance()
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        parts.update(a, b)
    whole_.update(x, y)
    torch.testing.assert_close(parts.scatter, whole_.scatter, rtol=1e-6, atol=1e-6)
    expected = (x - x.mean(0)).T @ (y - y.mean(0))
    torch.testing.assert_close(parts.scatter, expected, rtol=1e-6, atol=1e-6)


def test_cka_of_what_never_changes_and_of_what_cannot_be_compared() -> None:
    assert ev.linear_cka(torch.ones(5, 2), draw(5, 2)) == 0
    for x, y in ((draw(5, 2), draw(6, 2)), (draw(1, 2), draw(1, 2))):
        with pytest.raises(UnderstudyError, match="the same two or more samples"):
            ev.linear_cka(x, y)


def pooled(net: Network, source: ArraySource, tap: str) -> Tensor:
    net.eval().watch({tap})
    with torch.no_grad():
        signals = net(Batch(source.ids, source.ids, source.inputs.float() / 255))
    x = signals.embedding if tap == "embedding" else signals.features[tap]
    assert x is not None
    net.watch(())
    return x.double().flatten(2).mean(2) if x.dim() == 4 else x.double()


def test_cka_between_the_taps_of_two_networks(small_network: Callable[..., Network], small_images: ArraySource) -> None:
    one, other = small_network("cnn:4-8"), small_network("mlp:20-11")
    one.train().watch({"embedding"})
    found = ev.cka_between(one, other, small_images, batch_size=7)
    assert one.training
    assert one.signals == {"embedding"}
    assert (found.rows[-1], found.columns[-1]) == ("embedding", "embedding")
    assert len(found.rows) == 3
    expected = [
        [plain_cka(pooled(one, small_images, i), pooled(other, small_images, j)) for j in found.columns]
        for i in found.rows
    ]
    torch.testing.assert_close(found.values, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-7)
    own = ev.cka_between(one, one, small_images, taps=found.rows[:2], other_taps=found.rows[1:])
    assert own.values[1, 0] == pytest.approx(1)
    with pytest.raises(UnderstudyError, match="no layer 'stage9'"):
        ev.cka_between(one, other, small_images, taps=["stage9"])
