"""OFD, and what layers give before their activations, which it and AB read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import understudy
from understudy.data import open_source
from understudy.data.loader import in_order
from understudy.errors import UnderstudyError
from understudy.models import InputContract, build, fold
from understudy.objectives import OBJECTIVES, BuildContext, Overhaul, TapPair, overhaul_loss
from understudy.objectives.overhaul import negative_means
from understudy.signals import Batch, Shapes, Signals
from understudy.teachers import Teacher, combine

CONTRACT = InputContract((3, 32, 32), (0.5,) * 3, (0.25,) * 3, ("a", "b", "c"))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_margins_are_means_of_what_is_negative() -> None:
    x = randn(5, 3, 4, 4)
    x[:, 2] = x[:, 2].abs()
    expected = [np.mean([v for v in x[:, c].double().numpy().flat if v < 0] or [0.0]) for c in range(3)]
    assert negative_means(x).tolist() == pytest.approx(expected, rel=1e-5)


def test_overhaul_loss_and_its_gradient() -> None:
    s, t, margin = randn(2, 3, 4, 4).requires_grad_(), randn(2, 3, 4, 4, seed=1), torch.tensor([-0.3, -1.0, -2.0])
    total, slopes = 0.0, np.zeros(s.shape)
    for b, c, y, x in np.ndindex(*s.shape):
        own, target = float(s[b, c, y, x].detach()), max(float(t[b, c, y, x]), float(margin[c]))
        if not own <= target <= 0:
            total += (own - target) ** 2 / 2
            slopes[b, c, y, x] = own - target
    loss = overhaul_loss(s, t, margin)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, s)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-5, atol=1e-7)


def test_the_module_is_the_sum_over_layers() -> None:
    pairs = [TapPair("a", "x", (4, 8, 8), (6, 8, 8)), TapPair("b", "y", (6, 4, 4), (10, 2, 2))]
    objective = Overhaul(pairs).eval()
    own = Signals(torch.zeros(3, 2), None, {"a": randn(3, 4, 8, 8), "b": randn(3, 6, 4, 4, seed=1)})
    answers = Signals(torch.zeros(3, 2), None, {"x": randn(3, 6, 8, 8, seed=2), "y": randn(3, 10, 2, 2, seed=3)})
    objective.fit(answers)
    expected = 0.0
    for index, (pair, factor) in enumerate(zip(pairs, (0.5, 1.0), strict=True)):
        x, y = own.features[pair.student].double(), answers.features[pair.teacher].double()
        conv, norm = objective.connectors[index]  # type: ignore[misc]
        x = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0].double(), x) / (1 + norm.eps) ** 0.5
        if index:
            x = x.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5))
        target = torch.maximum(y, negative_means(y).double().view(1, -1, 1, 1))
        counted = ~((x <= target) & (target <= 0))
        expected += factor * float(((x - target) ** 2 * counted).sum().detach()) / 3
    found = objective(own, answers, Batch(torch.arange(3), torch.arange(3), torch.zeros(3, 1)))
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("net", ["resnet20", "resnet8x4", "vgg8", "shufflenetv1", "resnet50"])
@pytest.mark.parametrize("folded", [False, True])
def test_a_stage_is_the_activation_of_what_comes_before(net: str, folded: bool) -> None:
    network = build(f"cifar:{net}", CONTRACT).eval()
    shapes = network.shapes()
    assert shapes.activated == frozenset(shapes.features)
    network.watch([*shapes.features, *(f"{tap}:pre" for tap in shapes.features)])
    network = fold(network) if folded else network
    with torch.no_grad():
        features = network(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))).features
    for tap in shapes.features:
        torch.testing.assert_close(features[f"{tap}:pre"].relu(), features[tap])
        assert (features[f"{tap}:pre"] < 0).any()


def test_of_a_pre_activation_network_the_next_norm_comes_between() -> None:
    network = build("cifar:wrn_16_1", CONTRACT).eval()
    taps = list(network.shapes().features)
    network.watch([*taps, *(f"{tap}:pre" for tap in taps)])
    with torch.no_grad():
        features = network(torch.rand(2, 3, 32, 32)).features
        norms = [network.module.layer2[0].enter[0], network.module.layer3[0].enter[0], network.module.tail[0]]  # type: ignore[index,union-attr]
        for tap, norm in zip(taps, norms, strict=True):
            assert isinstance(norm, nn.BatchNorm2d)
            torch.testing.assert_close(features[f"{tap}:pre"], norm(features[tap]))


def test_layers_without_an_activation_are_taken_as_they_are() -> None:
    network = build("cifar:mobilenetv2", CONTRACT)
    shapes = network.shapes()
    assert not shapes.activated & {"layer1", "layer2"}, "linear bottlenecks"
    objective = OBJECTIVES["ofd"].from_shapes(BuildContext(shapes, shapes, torch.arange(4)))
    assert {"layer1", "layer2"} <= objective.needs.student
    assert not network.offers("layer1:pre")
    with pytest.raises(UnderstudyError, match="has no layer 'layer1:pre'"):
        network.watch(["layer1:pre"])


@pytest.mark.parametrize("method", ["ofd", "ab", "review", "at"])
def test_layers_are_read_before_their_activations(method: str) -> None:
    features = {"a": (4, 8, 8), "b": (6, 4, 4)}
    shapes = Shapes(5, 8, features, activated=frozenset({"b"}))
    objective = OBJECTIVES[method].from_shapes(BuildContext(shapes, shapes, torch.arange(4)))
    beside = {"embedding"} if method == "review" else set()
    assert objective.needs.student == beside | {"a", "b:pre" if method in ("ofd", "ab") else "b"}
    assert objective.needs.teacher == beside | {"a", "b" if method == "at" else "b:pre"}


def test_an_ensemble_gives_what_each_teacher_has() -> None:
    teachers = [Teacher(build(f"cifar:{net}", CONTRACT)) for net in ("resnet8", "mobilenetv2")]
    ensemble = combine(teachers)
    ensemble.watch({"maps", "layer2:pre", "layer4"})
    one, other = ensemble(Batch(torch.arange(2), torch.arange(2), torch.rand(2, 3, 32, 32))).members
    assert set(one.features) == {"maps", "layer2:pre"}
    assert set(other.features) == {"maps", "layer4"}


def test_a_run_measures_the_margins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each of two teachers of other architectures; on some of the training part, they are about those of all."""
    fitted: list[Overhaul] = []
    plain = Overhaul.fit

    def fit(objective: Overhaul, teacher: Signals) -> None:
        plain(objective, teacher)
        fitted.append(objective)

    monkeypatch.setattr(Overhaul, "fit", fit)
    nets = ("cnn:4-8", "cifar:resnet8")
    teachers = [understudy.train("digits", net, epochs=3, run=tmp_path / net[:3], translate=0, lr=0.01) for net in nets]
    paths = [str(run.path) for run in teachers]
    options = {"epochs": 3, "lr": 0.01, "translate": 0, "student_taps": ("5", "12")}
    run = understudy.distill("digits", paths, "cnn:4-4", method="ofd", run=tmp_path / "ofd", **options)
    assert run.facts.of("distilled")[0].seeds[0].accuracy > 0.3
    train = open_source("digits").train
    assert len(fitted) == 2
    for objective, teacher in zip(fitted, teachers, strict=True):
        network = teacher.network("model-0").eval().watch(objective.needs.teacher)
        with torch.no_grad():
            features = network(next(in_order(train, len(train), torch.device("cpu")))).features
        for index, pair in enumerate(objective.pairs):
            assert pair.teacher.endswith(":pre")
            found, expected = objective.get_buffer(f"margin{index}"), negative_means(features[pair.teacher])
            assert (found < 0).all()
            assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.95
            assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.1)
