"""Groups of classes from the covariance of predictions; what a specialist learns from, and what undoes it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from understudy.data import ArraySource, open_source
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.evaluation import Covariance
from understudy.models import InputContract, build, load_network
from understudy.objectives import PartialKD, partial_kd_loss
from understudy.panels.covariance import covariance_of
from understudy.panels.grouping import adjusted_rand, confusion_within, group_classes, order_by_group
from understudy.panels.head import narrow_head
from understudy.panels.sampling import SpecialistSampler, dustbin_name, log_oversampling, with_dustbin
from understudy.pipeline.specialist import bias_correction
from understudy.signals import Batch, Signals

# ---- covariance


@given(
    arrays(np.float64, (37, 5), elements=st.floats(-10, 10)),
    st.lists(st.integers(0, 37), max_size=6).map(sorted),
    st.sampled_from([0.0, 1e6]),
)
@settings(max_examples=25, deadline=None)
def test_any_division_into_batches_gives_the_covariance(x: np.ndarray, cuts: list[int], far: float) -> None:
    x = x + far
    found = Covariance()
    for part in np.split(x, cuts):
        found.update(torch.from_numpy(part))
    np.testing.assert_allclose(found.matrix.numpy(), np.cov(x.T, bias=True), rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(found.mean_x.numpy(), x.mean(0), rtol=1e-12, atol=1e-9)
    assert found.count == 37


def test_two_halves_merge_to_the_whole_and_nothing_to_nothing() -> None:
    x = torch.rand(50, 4)
    one, other, whole = Covariance(), Covariance(), Covariance()
    one.update(x[:13])
    other.update(x[13:])
    whole.update(x)
    one.merge(other)
    torch.testing.assert_close(one.matrix, whole.matrix)
    torch.testing.assert_close(whole.second_moment, (x.double().T @ x.double()) / 50)
    empty = Covariance()
    empty.merge(Covariance().update(x[:0]))
    assert empty.count == 0
    torch.testing.assert_close(empty.merge(whole).merge(Covariance()).matrix, whole.matrix)


def test_the_covariance_of_predictions_reads_no_labels() -> None:
    train = open_source("digits").train
    assert isinstance(train, ArraySource)
    bare = replace(train, targets=None, classes=())
    network = build("mlp:8x1", InputContract((1, 8, 8), (0.3,), (0.3,), train.classes), seed=1)
    found = covariance_of(network, bare, device=torch.device("cpu"), batch_size=97, temperature=0.5)
    with torch.no_grad():
        p = (network.eval()(train.inputs.float() / 255).logits.double() / 0.5).softmax(1)
    torch.testing.assert_close(found.matrix, torch.cov(p.T, correction=0), rtol=1e-5, atol=1e-9)
    next(network.parameters()).data.fill_(float("nan"))
    with pytest.raises(UnderstudyError, match="covariance of the predictions on digits is not finite"):
        covariance_of(network, bare, device=torch.device("cpu"))


# ---- groups


def planted(sizes: tuple[int, ...], seed: int = 0) -> tuple[Tensor, list[tuple[int, ...]]]:
    """The covariance of predictions that confuse classes within planted groups, and the groups."""
    draw = np.random.default_rng(seed)
    classes = sum(sizes)
    order = draw.permutation(classes)
    groups = [tuple(sorted(part.tolist())) for part in np.split(order, np.cumsum(sizes)[:-1])]
    logits = draw.normal(size=(6000, classes))
    for row, group in enumerate(np.resize(np.arange(len(groups)), 6000)):
        members = list(groups[group])
        logits[row, members] += 4
        logits[row, draw.choice(members)] += 2
    found = Covariance()
    found.update(torch.from_numpy(logits).softmax(1))
    return found.matrix, sorted(groups)


@pytest.mark.parametrize("columns", ["correlation", "covariance"])
@pytest.mark.parametrize("sizes", [(4, 4, 4, 4, 4), (2, 5, 3)])
def test_planted_groups_are_found(sizes: tuple[int, ...], columns: Any) -> None:
    covariance, groups = planted(sizes)
    assert group_classes(covariance, len(sizes), columns=columns) == groups
    assert group_classes(covariance, len(sizes), columns=columns, seed=5) == groups
    assert group_classes(1e-6 * covariance, len(sizes), columns=columns) == groups


def test_mini_batches_find_them_among_many() -> None:
    covariance, groups = planted((6,) * 40)
    assert adjusted_rand(group_classes(covariance, 40, online=True), groups) > 0.8


def test_correlations_find_groups_of_classes_that_are_seldom_confused() -> None:
    """Confusion of one in ten thousand, and classes of very different frequency: variances drown the covariances."""
    draw = torch.Generator().manual_seed(0)
    groups = [(0, 1, 2), (3, 4), (5, 6, 7)]
    scale = torch.tensor([1, 0.1, 0.5, 2, 0.2, 1, 0.3, 3]).double()
    covariance = torch.eye(8).double()
    for group in groups:
        for i in group:
            for j in group:
                covariance[i, j] += 0.02 * (1 + float(torch.rand(1, generator=draw))) * (i < j)
    covariance = (covariance + covariance.T) / 2 * scale * scale[:, None]
    assert group_classes(covariance, 3) == groups
    assert group_classes(covariance, 3, columns="covariance") != groups


def test_groups_are_a_partition_the_same_each_time_or_overlap() -> None:
    covariance, groups = planted((3, 4, 5))
    found = group_classes(covariance, 5, seed=2)
    assert sorted(c for group in found for c in group) == list(range(12))
    assert found == group_classes(covariance, 5, seed=2) == sorted(found)
    wide = group_classes(covariance, 3, group_size=6)
    assert {len(group) for group in wide} == {6}
    for group in groups:
        assert any(set(group) <= set(one) for one in wide)


def test_order_and_confusion_within() -> None:
    together = torch.tensor([[0.3, 0.0, 0.1], [0.0, 0.2, 0.05], [0.1, 0.05, 0.2]], dtype=torch.float64)
    assert confusion_within(together, [(0, 2), (1,)]) == pytest.approx([2 / 3, 0])
    assert confusion_within(together, [(0, 2), (1, 2)]) == pytest.approx([2 / 3, 1 / 3])
    assert confusion_within(torch.eye(3), [(0, 1)]) == [0]
    assert order_by_group([(1, 3), (0, 3)], 5) == [1, 3, 0, 2, 4]


def test_adjusted_rand() -> None:
    assert adjusted_rand([(0, 1), (2, 3)], [(2, 3), (0, 1)]) == 1
    # Hubert and Arabie's index from its pair counts: none of the 2 + 2 joined pairs is shared, 4/6 by chance
    assert adjusted_rand([(0, 1), (2, 3)], [(0, 2), (1, 3)]) == pytest.approx((0 - 4 / 6) / (2 - 4 / 6))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clusters": 1}, "clusters must be at least 2; got 1"),
        ({"clusters": 13}, "clusters must be at most 12, the number of classes; got 13"),
        ({"clusters": 3, "group_size": 12}, "group_size must be between 1 and 11.*of 12 classes.*got 12"),
        ({"clusters": 3, "group_size": 40}, "group_size must be between 1 and 11.*of 12 classes.*got 40"),
        ({"clusters": 3, "group_size": 0}, "group_size must be between 1 and 11.*got 0"),
    ],
)
def test_numbers_that_do_not_fit(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UnderstudyError, match=says):
        group_classes(planted((3, 4, 5))[0], **options)


def test_matrices_that_tell_nothing() -> None:
    with pytest.raises(UnderstudyError, match="the covariance has NaN or infinite"):
        group_classes(torch.full((4, 4), float("nan")), 2)
    with pytest.raises(UnderstudyError, match="do not separate 3 groups of classes"):
        group_classes(torch.zeros(5, 5), 3)


# ---- half and half


def source(targets: list[int], classes: int = 4) -> ArraySource:
    y = torch.tensor(targets)
    names = tuple("abcdefgh"[:classes])
    return ArraySource("set", names, torch.arange(len(y)) * 7 + 3, y, (2,), inputs=torch.rand(len(y), 2))


@given(st.lists(st.integers(-1, 3), min_size=4, max_size=60), st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_half_is_special_and_the_others_take_turns(targets: list[int], epoch: int, seed: int) -> None:
    made = source([0, 1, 2, *targets])
    draw = SpecialistSampler.of(made, ("b", "d"), seed)
    rows = draw(epoch)
    assert len(rows) == len(draw)
    assert torch.equal(rows, SpecialistSampler.of(made, ("b", "d"), seed)(epoch)), "a function of seed and epoch"
    assert made.targets is not None
    special = torch.isin(made.targets[rows], torch.tensor([1, 3]))
    assert int(special.sum()) * 2 == len(rows)
    assert torch.equal(rows[special].sort().values, draw.special), "each special sample once"
    assert (made.targets[rows] >= 0).all()
    seen = torch.cat([draw(e) for e in range(epoch + 1)])
    counts = torch.bincount(seen, minlength=len(made))[draw.others]
    assert int(counts.max() - counts.min()) <= 1, "no other twice before all others once"


def test_epochs_and_seeds_differ() -> None:
    draw = SpecialistSampler.of(source([0, 1, 2, 3] * 50), ("b",), 0)
    assert not torch.equal(draw(0), draw(1))
    assert not torch.equal(draw(0), replace(draw, seed=1)(0))
    assert not torch.equal(draw(0)[:50].sort().values, draw.special), "shuffled together"


def test_batches_follow_the_draw_wherever_they_begin() -> None:
    made = source([0, 1, 2, 3] * 9)
    draw = SpecialistSampler.of(made, ("b",), 4)
    batches = BatchLoader(made, Views(seed=4), 5, 4, torch.device("cpu"), sampler=draw)
    assert batches.steps == 4
    whole = torch.cat([one.ids for one in batches.epoch(2)])
    assert torch.equal(whole, made.ids[draw(2)])
    assert torch.equal(torch.cat([one.ids for one in batches.epoch(2, start=2)]), whole[10:])


def test_narrowed_labels() -> None:
    made = source([3, 0, -1, 2, 1, 3])
    found = with_dustbin(made, ("d", "b"))
    assert found.classes == ("d", "b", "dustbin")
    assert found.targets is not None
    assert found.targets.tolist() == [0, 2, -1, 2, 1, 0]
    assert torch.equal(found.ids, made.ids)
    assert dustbin_name(("dustbin", "dustbin_")) == "dustbin__"


def test_a_group_without_samples() -> None:
    with pytest.raises(UnderstudyError, match="no sample in the group d"):
        SpecialistSampler.of(source([0, 1, 2]), ("d",), 0)
    with pytest.raises(UnderstudyError, match="no sample outside the group a, b"):
        SpecialistSampler.of(source([0, 1, 1]), ("a", "b"), 0)


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_the_correction_turns_the_best_answer_to_half_and_half_into_the_true_posterior(seed: int) -> None:
    """Bayes' rule on a world of five looks, of which training sees half from the group and the world its share."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(3, 60, 4)
    likelihood = draw.dirichlet(np.ones(5), 4)  # (class, look)
    made = source(np.repeat(np.arange(4), counts).tolist())
    group = ["b", "d"]
    joint = counts[:, None] * likelihood / counts.sum()
    truth = np.vstack([joint[[1, 3]], joint[[0, 2]].sum(0)])
    share = truth[:2].sum()
    trained = np.vstack([truth[:2] / share / 2, truth[2:] / (1 - share) / 2])
    logits = np.log(trained / trained.sum(0))
    logits[-1] += log_oversampling(made, group)
    corrected = np.exp(logits) / np.exp(logits).sum(0)
    np.testing.assert_allclose(corrected, truth / truth.sum(0), rtol=1e-9)


def test_the_correction_as_the_recipe_writes_it() -> None:
    assert bias_correction(("b",), ("a", "b", "c"), math.log(4), soft=False) == ("dustbin=+1.38629436112",)
    assert bias_correction(("b",), ("a", "b", "c"), -0.5, soft=True) == ("a=-0.5", "c=-0.5")


# ---- where a specialist begins


@pytest.mark.parametrize("spec", ["mlp:12x1", "cnn:4-8", "cifar:resnet8"])
def test_a_narrowed_network_ranks_its_classes_as_before(spec: str, tmp_path: Path) -> None:
    classes = tuple("abcde")
    whole = build(spec, InputContract((3, 8, 8), (0.4,) * 3, (0.3,) * 3, classes), seed=3)
    whole.set_class_bias(torch.tensor([0.5, 0, 0, -1, 2]))
    whole.save(tmp_path / "g.safetensors")
    found = narrow_head(tmp_path / "g.safetensors", ("d", "b"), "dustbin").eval()
    x = torch.rand(6, 3, 8, 8)
    with torch.no_grad():
        before, after = whole.eval()(x).logits, found(x).logits
    torch.testing.assert_close(after[:, :2], before[:, [3, 1]])
    others = before[:, [0, 2, 4]]
    torch.testing.assert_close(after[:, 2], others.mean(1) + math.log(3))
    assert (after[:, 2] <= others.logsumexp(1) + 1e-5).all()
    assert found.classes == ("d", "b", "dustbin")
    found.save(tmp_path / "s.safetensors")
    assert load_network(tmp_path / "s.safetensors").classes == found.classes
    with pytest.raises(UnderstudyError, match="has no class 'z'"):
        narrow_head(tmp_path / "g.safetensors", ("z",), "dustbin")


# ---- soft targets for the rest


def test_rest_targets_are_of_the_conditional_distribution() -> None:
    student, teacher = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    rest, t = [0, 2, 4], 2.0
    p, q = ((z[:, rest] / t).softmax(1) for z in (teacher, student))
    expected = t * t * (p * (p / q).log()).sum(1).mean()
    module = PartialKD([1, 3], 5, t)
    ids = torch.arange(7)
    found = module(Signals(student), Signals(teacher), Batch(ids, ids, student))
    torch.testing.assert_close(found, expected)
    found.backward()
    assert student.grad is not None
    assert not student.grad[:, [1, 3]].any(), "the group is left to the labels"
    torch.testing.assert_close(student.grad[:, rest], t * (q - p).detach() / 7)
    assert float(partial_kd_loss(student.detach(), teacher, torch.tensor([2]), 1.0)) == 0
    with pytest.raises(ValueError, match="leave out at least one"):
        PartialKD([0, 1], 2)
