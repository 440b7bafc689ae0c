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
from understudy.models import InputContract, build
from understudy.objectives import OBJECTIVES, BuildContext, Objective, ofa_loss, ttm_loss
from understudy.objectives.batch_norm import ChannelNorm
from understudy.pipeline.loss import compose, methods_of
from understudy.signals import Batch, Shapes, Signals

ROWS, CLASSES = 6, 10
CONTEXT = BuildContext(
    student=Shapes(CLASSES, 16, {"layer1": (8, 16, 16), "layer2": (12, 8, 8), "layer3": (16, 4, 4)}, maps=(16, 4, 4)),
    teacher=Shapes(CLASSES, 24, {"stage1": (10, 16, 16), "stage2": (20, 8, 8), "stage3": (24, 4, 4)}, maps=(24, 4, 4)),
    ids=torch.arange(20),
    classifier=(torch.randn(10, 24, generator=torch.Generator().manual_seed(7)), torch.linspace(-1, 1, 10)),
)
TARGETS = torch.arange(ROWS) % CLASSES
BATCH = Batch(torch.arange(ROWS), torch.arange(ROWS), torch.zeros(ROWS, 1), TARGETS)


def signals(side: Shapes, seed: int, grad: bool = False) -> Signals:
    draw = torch.Generator().manual_seed(seed)

    def made(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(ROWS, *shape, generator=draw) * scale).requires_grad_(grad)

    more = {"maps": side.maps, "cams": (side.classes, *side.maps[1:])}
    features = {tap: made(*shape) for tap, shape in (dict(side.features) | more).items()}
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


def ttm(own: Any, s: Signals, t: Signals) -> Tensor:
    power = t.logits.softmax(1) ** 0.1
    p = power / power.sum(1, keepdim=True)
    return 45 * (p * (p.log() - s.logits.log_softmax(1))).sum(1).mean()


def srrl(own: Any, s: Signals, t: Signals) -> Tensor:
    """The connector on maps; statistics are means over positions; the teacher's classifier on those."""
    conv, norm = own.connector[0], own.connector[1]
    maps = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], s.features["maps"])
    feature, other = batch_norm(maps, norm).clamp_min(0).mean((2, 3)), t.features["maps"].mean((2, 3))
    assert CONTEXT.classifier is not None
    weight, bias = CONTEXT.classifier
    regression = (feature @ weight.T + bias - t.logits).square().mean()
    return (feature - other).square().mean(1).mean() + regression


def cat(own: Any, s: Signals, t: Signals) -> Tensor:
    a, b = (x.features["cams"].unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5)) for x in (s, t))
    return 15 * (a - b).square().mean()


def mlkd(own: Any, s: Signals, t: Signals) -> Tensor:
    total = torch.zeros(())
    for temperature in (2, 3, 4, 5, 6):
        q, p = ((x.logits / temperature).softmax(1) for x in (s, t))
        total = total + temperature**2 * (p * (p / q).log()).sum(1).mean()
        total = total + 0.5 * ((p @ p.T - q @ q.T) ** 2).sum() / ROWS + 0.5 * ((p.T @ p - q.T @ q) ** 2).sum() / CLASSES
    return 0.9 * total


def pooled(x: Tensor, size: int) -> Tensor:
    side = x.shape[2] // size
    return x.unfold(2, side, side).unfold(3, side, side).mean((4, 5))


def review(own: Any, s: Signals, t: Signals) -> Tensor:
    assert s.embedding is not None
    assert t.embedding is not None
    xs = [s.features["layer1"], s.features["layer2"], s.features["layer3"], s.embedding.view(ROWS, -1, 1, 1)]
    ts = [t.features["stage1"], t.features["stage2"], t.features["stage3"], t.embedding.view(ROWS, -1, 1, 1)]
    total, deeper = torch.zeros(()), None
    for fusion, x, y in reversed(list(zip(own.fusions, xs, ts, strict=True))):
        x = batch_norm(F.conv2d(x, fusion.enter[0].weight), fusion.enter[1])
        if deeper is not None:
            deeper = F.interpolate(deeper, x.shape[2:])
            z = F.conv2d(torch.cat([x, deeper], 1), fusion.attention[0].weight, fusion.attention[0].bias).sigmoid()
            x = x * z[:, 0].unsqueeze(1) + deeper * z[:, 1].unsqueeze(1)
        deeper = x
        f = batch_norm(F.conv2d(x, fusion.leave[0].weight, padding=1), fusion.leave[1])
        loss, norm, share = (f - y).square().mean(), 1.0, 1.0
        for size in (4, 2, 1):
            if size < f.shape[2]:
                share /= 2
                loss, norm = loss + share * (pooled(f, size) - pooled(y, size)).square().mean(), norm + share
        total = total + loss / norm
    return 5 * total


def ofa(own: Any, s: Signals, t: Signals) -> Tensor:
    """At gamma 1, cross-entropy with the teacher's distribution, of each exit and of the student."""
    p = t.logits.softmax(1)
    exits = [leave(s.features[f"layer{stage + 1}"]) for stage, leave in enumerate(own.exits)]
    assert [sum(isinstance(part, nn.Conv2d) for part in leave) for leave in own.exits] == [8, 4, 1]
    return torch.stack([-(p * z.log_softmax(1)).sum(1).mean() for z in (*exits, s.logits)]).sum()


FORMULAS: dict[str, Callable[[Any, Signals, Signals], Tensor]] = {
    "cc": cc, "ft": ft, "fitnet": fitnet, "pkt": pkt, "standardized": standardized,
    "ttm": ttm, "srrl": srrl, "cat": cat, "mlkd": mlkd, "review": review, "ofa": ofa,
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


def test_weighted_transformed_teachers_count_smooth_ones_more() -> None:
    s, t = signals(CONTEXT.student, 1).logits, signals(CONTEXT.teacher, 2).logits
    power = t.softmax(1) ** 0.2
    norm = power.sum(1)
    p = power / norm[:, None]
    expected = (norm * (p * (p.log() - s.log_softmax(1))).sum(1)).mean()
    torch.testing.assert_close(ttm_loss(s, t, gamma=0.2, weighted=True), expected)


def test_ofa_makes_more_of_the_target() -> None:
    s, t = signals(CONTEXT.student, 1).logits, signals(CONTEXT.teacher, 2).logits
    total = 0.0
    for row, y in enumerate((3, -1, 0, 9, 1, 2)):
        p, log_q = t[row].softmax(0), s[row].log_softmax(0)
        for c in range(CLASSES):
            own = float(c == y)
            total -= float(((p[c] + own) ** 1.5 - own) * log_q[c]) / ROWS
    assert ofa_loss(s, t, torch.tensor([3, -1, 0, 9, 1, 2]), gamma=1.5).item() == pytest.approx(total, rel=1e-5)


def test_class_activation_maps_average_to_the_logits() -> None:
    network = build("cifar:resnet8", InputContract((3, 16, 16), (0.5,) * 3, (0.3,) * 3, tuple("abcde"))).eval()
    found = network.watch({"cams", "maps"})(torch.rand(4, 3, 16, 16))
    assert network.shapes().maps == (64, 4, 4)
    assert found.features["cams"].shape == (4, 5, 4, 4)
    torch.testing.assert_close(found.features["cams"].mean((2, 3)), found.logits)
    assert network.classifier is not None
    torch.testing.assert_close(F.linear(found.features["maps"].mean((2, 3)), *network.classifier), found.logits)


def test_the_labels_have_the_weight_that_authors_give_them() -> None:
    def labels(**fields: Any) -> float | None:
        (terms,) = methods_of(DistillRecipe(data="x", teacher=("t",), student="s", **fields)).values()
        return {term.name: term.weight for term in terms}["ce"]

    assert labels(method=("standardized",)) == 0.1
    assert labels(objective=("standardized:inner=dkd",)) == 1
    assert labels(method=("standardized+at",)) == 1
    assert labels(method=("fitnet",)) == 1
    assert labels(method=("standardized",), hard_weight=0.5) == 0.5
