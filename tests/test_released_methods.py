"""Methods as their authors' code has them at its defaults: value and gradient against formulas written here.

The formulas take the weights of the objective's own layers, so that both are of the same networks. The gradient is
that of the whole loss, the released weight included, at what is read of the student.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.config.recipe import DistillRecipe
from understudy.objectives import OBJECTIVES, BuildContext, Objective
from understudy.objectives.batch_norm import ChannelNorm
from understudy.pipeline.loss import compose, methods_of
from understudy.signals import Batch, Shapes, Signals

ROWS, CLASSES = 6, 10
CONTEXT = BuildContext(
    student=Shapes(CLASSES, 16, {"layer1": (8, 16, 16), "layer2": (12, 8, 8), "layer3": (16, 4, 4)}),
    teacher=Shapes(CLASSES, 24, {"stage1": (10, 16, 16), "stage2": (20, 8, 8), "stage3": (24, 4, 4)}),
    ids=torch.arange(20),
)
TARGETS = torch.arange(ROWS) % CLASSES
BATCH = Batch(torch.arange(ROWS), torch.arange(ROWS), torch.zeros(ROWS, 1), TARGETS)


def signals(side: Shapes, seed: int, grad: bool = False) -> Signals:
    draw = torch.Generator().manual_seed(seed)

    def made(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(ROWS, *shape, generator=draw) * scale).requires_grad_(grad)

    features = {tap: made(*shape) for tap, shape in side.features.items()}
    return Signals(made(side.classes, scale=4), made(side.embedding), features)


def batch_norm(x: Tensor, layer: nn.Module) -> Tensor:
    assert isinstance(layer, ChannelNorm)
    axes = [0, *range(2, x.dim())]
    mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    shape = (1, -1, *[1] * (x.dim() - 2))
    return (x - mean) / (var + 1e-5).sqrt() * layer.weight.view(shape) + layer.bias.view(shape)


def three_convolutions(x: Tensor, layers: nn.Sequential) -> Tensor:
    """3x3 convolutions, each followed by its BatchNorm if it has one, and a leaky ReLU of slope 0.1."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias, padding=1)
        elif isinstance(layer, ChannelNorm):
            x = batch_norm(x, layer)
        else:
            x = torch.where(x > 0, x, 0.1 * x)
    return x


def cc(own: Any, s: Signals, t: Signals) -> Tensor:
    assert s.embedding is not None
    assert t.embedding is not None
    f = s.embedding @ own.embed_student[0].weight.T + own.embed_student[0].bias
    g = t.embedding @ own.embed_teacher[0].weight.T + own.embed_teacher[0].bias
    assert f.shape == (ROWS, 128)
    delta = (f - g).abs()
    return 0.02 * torch.stack([delta[i] @ delta[i + 1] for i in range(ROWS - 1)]).mean()


def ft(own: Any, s: Signals, t: Signals) -> Tensor:
    with torch.no_grad():
        factor = three_convolutions(t.features["stage3"], own.paraphrasers[0].encoder)
        back = own.paraphrasers[0].decoder(factor)
        learning = (back - t.features["stage3"]).square().mean()  # the paraphraser's, no gradient of the student
    assert factor.shape == (ROWS, 12, 4, 4)
    found = three_convolutions(s.features["layer3"], own.translators[0])
    maps = [F.normalize(x.pow(2).mean(1).view(ROWS, -1)) for x in (found, factor)]
    return 200 * (maps[0] - maps[1]).abs().mean() + learning


def fitnet(own: Any, s: Signals, t: Signals) -> Tensor:
    conv, norm = own.regressors[0][0], own.regressors[0][1]
    assert conv.kernel_size == (1, 1)
    guided = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], s.features["layer2"]) + conv.bias.view(1, -1, 1, 1)
    return 100 * (batch_norm(guided, norm).clamp_min(0) - t.features["stage2"]).square().mean()


def pkt(own: Any, s: Signals, t: Signals) -> Tensor:
    q, p = (F.normalize(x) for x in (s.embedding, t.embedding) if x is not None)
    q, p = ((x @ x.T + 1) / 2 for x in (q, p))
    q, p = (x / x.sum(1, keepdim=True) for x in (q, p))
    return 3e4 * (p * torch.log((p + 1e-7) / (q + 1e-7))).mean()


def standardized(own: Any, s: Signals, t: Signals) -> Tensor:
    """Logit standardization of KD: weight 9 at temperature 2, and labels of weight 0.1."""
    z, v = ((x - x.mean(1, keepdim=True)) / (1e-7 + x.std(1, keepdim=True)) / 2 for x in (s.logits, t.logits))
    p = v.softmax(1)
    soft = 4 * (p * (p.log() - z.log_softmax(1))).sum(1).mean()
    hard = -s.logits.log_softmax(1)[torch.arange(ROWS), TARGETS].mean()
    return 9 * soft + 0.1 * hard


FORMULAS: dict[str, Callable[[Any, Signals, Signals], Tensor]] = {
    "cc": cc, "ft": ft, "fitnet": fitnet, "pkt": pkt, "standardized": standardized,
}  # fmt: skip


def released(method: str) -> tuple[Callable[[Signals, Signals], Tensor], Objective]:
    """A method's loss as a recipe without options has it, less the labels where its formula has none; and its term."""
    recipe = DistillRecipe(data="cifar100", teacher=("t",), student="s", method=(method,))
    total = compose(methods_of(recipe)[method], [CONTEXT], seed=0)
    own = total.terms[method]
    assert isinstance(own, Objective)
    if method == "standardized":
        return lambda s, t: total(s, t, BATCH), own
    return lambda s, t: total.weights[method] * own(s, t, BATCH), own


@pytest.mark.parametrize("method", FORMULAS)
def test_value_and_gradient_are_the_released_ones(method: str) -> None:
    loss, own = released(method)
    student, teacher = signals(CONTEXT.student, 1, grad=True), signals(CONTEXT.teacher, 2)
    named = {"logits": student.logits, "embedding": student.embedding} | dict(student.features)
    read = [x for name in sorted(own.needs.student) if (x := named[name]) is not None]
    found, expected = loss(student, teacher), FORMULAS[method](own, student, teacher)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    ours, theirs = torch.autograd.grad(found, read), torch.autograd.grad(expected, read)
    for one, other in zip(ours, theirs, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() < 1e-3 * other.norm()


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "kernel"),
    [
        ((8, 16, 16), (10, 8, 8), nn.Conv2d, (3, 3)),
        ((8, 8, 8), (10, 16, 16), nn.ConvTranspose2d, (4, 4)),
        ((8, 8, 8), (10, 8, 8), nn.Conv2d, (1, 1)),
        ((8, 7, 7), (10, 4, 4), nn.Conv2d, (4, 4)),
    ],
)
def test_the_regressor_of_a_hint_fits_the_teachers_size(
    student: tuple[int, ...], teacher: tuple[int, ...], kind: type[nn.Module], kernel: tuple[int, int]
) -> None:
    context = BuildContext(Shapes(5, 8, {"a": student}), Shapes(5, 8, {"a": teacher}), torch.arange(4))
    regressor: Any = OBJECTIVES["fitnet"].from_shapes(context).get_submodule("regressors.0")
    assert isinstance(regressor[0], kind)
    assert regressor[0].kernel_size == kernel
    assert isinstance(regressor[2], nn.ReLU)
    assert regressor(torch.zeros(2, *student)).shape[1:] == teacher


def test_the_labels_have_the_weight_that_authors_give_them() -> None:
    def labels(**fields: Any) -> float | None:
        (terms,) = methods_of(DistillRecipe(data="x", teacher=("t",), student="s", **fields)).values()
        return {term.name: term.weight for term in terms}["ce"]

    assert labels(method=("standardized",)) == 0.1
    assert labels(objective=("standardized:inner=dkd",)) == 1
    assert labels(method=("standardized+at",)) == 1
    assert labels(method=("fitnet",)) == 1
    assert labels(method=("standardized",), hard_weight=0.5) == 0.5
