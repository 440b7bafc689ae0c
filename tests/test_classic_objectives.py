"""Feature-based objectives: each function against its formula in plain float64 loops, and error messages."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from understudy.objectives import (
    OBJECTIVES,
    AttentionTransfer,
    BuildContext,
    FactorTransfer,
    FitNet,
    FlowOfSolution,
    KernelCongruence,
    Paraphraser,
    ProbabilisticTransfer,
    RelationalKD,
    SimilarityPreserving,
    TapPair,
    activation_boundary_loss,
    attention_loss,
    congruence_loss,
    correlation_loss,
    factor_loss,
    fsp_loss,
    hint_loss,
    nst_loss,
    pkt_loss,
    rkd_loss,
    similarity_loss,
    vid_loss,
)
from understudy.objectives.features import ChannelNorm, FeatureObjective
from understudy.signals import Batch, Shapes, Signals

CLASSIC = ("fitnet", "at", "sp", "cc", "cc-kernel", "vid", "rkd", "pkt", "nst", "ab", "ft", "fsp")
LAYERS = ("fitnet", "at", "vid", "nst", "ab", "ft", "fsp")
MAPS = ("at", "nst", "ft", "fsp")
CONTEXT = BuildContext(
    student=Shapes(5, 8, {"a": (4, 8, 8), "b": (6, 4, 4), "c": (8, 2, 2)}),
    teacher=Shapes(5, 12, {"z": (3, 16, 16), "a": (6, 8, 8), "b": (10, 4, 4), "c": (12, 2, 2)}),
    ids=torch.arange(20),
)
BATCH = Batch(torch.arange(6), torch.arange(6), torch.zeros(6, 1))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wide(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def signals(side: Shapes, rows: int = 6, seed: int = 0) -> Signals:
    features = {tap: randn(rows, *shape, seed=seed + i) for i, (tap, shape) in enumerate(side.features.items())}
    return Signals(randn(rows, side.classes, seed=seed), randn(rows, side.embedding, seed=seed), features)


def close(found: Tensor, expected: float | np.ndarray | np.floating) -> None:
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(float(expected), rel=1e-4, abs=1e-7)


def halved(x: np.ndarray) -> np.ndarray:
    """Means of 2x2 blocks: adaptive pooling from an even size to half of it."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean((3, 5))


# --- the formulas ---------------------------------------------------------------------------------------


def test_hint_loss() -> None:
    s, t = randn(2, 3, 2, 2), randn(2, 3, 2, 2, seed=1)
    close(hint_loss(s, t), sum((a - b) ** 2 for a, b in zip(wide(s).flat, wide(t).flat, strict=True)) / 24)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_attention_loss(power: float) -> None:
    s, t = randn(2, 3, 2, 2), randn(2, 5, 4, 4, seed=1)
    total = 0.0
    for x, y in zip(wide(s), halved(wide(t)), strict=True):
        q, p = (np.sum([abs(channel) ** power for channel in a], 0).ravel() for a in (x, y))
        total += (((q / np.sqrt((q**2).sum())) - p / np.sqrt((p**2).sum())) ** 2).sum()
    close(attention_loss(s, t, power), total / 2 / 4)


def test_similarity_loss() -> None:
    s, t = randn(3, 2, 2, 2), randn(3, 5, seed=1)
    grams = []
    for x in (wide(s).reshape(3, -1), wide(t)):
        gram = np.array([[sum(a * b) for b in x] for a in x])
        grams.append(np.array([row / math.sqrt(sum(row**2)) for row in gram]))
    close(similarity_loss(s, t), ((grams[0] - grams[1]) ** 2).sum() / 9)


def test_congruence_loss() -> None:
    s, t = randn(4, 3), randn(4, 3, seed=1)
    delta = abs(wide(s) - wide(t))
    close(congruence_loss(s, t), sum(a @ b for a, b in pairwise(delta)) / 3)


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (1.0, 3)])
def test_correlation_loss(gamma: float, order: int) -> None:
    s, t = randn(4, 3), randn(4, 5, seed=1)
    kernels = []
    for x in map(wide, (s, t)):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        terms = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
        kernels.append(np.array([[sum(c * (a @ b) ** p for p, c in enumerate(terms)) for b in x] for a in x]))
    close(correlation_loss(s, t, gamma, order), ((kernels[0] - kernels[1]) ** 2).sum() / 16)


def test_correlation_tends_to_the_gaussian_kernel() -> None:
    s, t = randn(4, 3), randn(4, 5, seed=1)
    kernels = []
    for x in map(wide, (s, t)):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        kernels.append(np.array([[math.exp(-0.4 * ((a - b) ** 2).sum()) for b in x] for a in x]))
    close(correlation_loss(s, t, order=12), ((kernels[0] - kernels[1]) ** 2).mean())


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2, 2)])
def test_vid_loss(shape: tuple[int, ...]) -> None:
    mean, t, scale = randn(*shape), randn(*shape, seed=1), randn(3, seed=2)
    total = 0.0
    for i in np.ndindex(*shape):
        variance = math.log(1 + math.exp(wide(scale)[i[1]])) + 1e-5
        total += (wide(t)[i] - wide(mean)[i]) ** 2 / (2 * variance) + 0.5 * math.log(variance)
    close(vid_loss(mean, scale, t), total / math.prod(shape))


def plain_rkd(s: np.ndarray, t: np.ndarray, distance: float, angle: float) -> float:
    rows = range(len(s))
    sides = []
    for x in (s, t):
        d = np.array([[np.linalg.norm(x[i] - x[j]) for j in rows] for i in rows])
        e = [[(x[i] - x[j]) / d[i, j] if d[i, j] else 0 * x[i] for j in rows] for i in rows]
        angles = np.array([[[e[i][j] @ e[k][j] for k in rows] for j in rows] for i in rows])
        sides.append((d / d[d > 0].mean(), angles))

    def huber(a: np.ndarray, b: np.ndarray) -> float:
        gap = abs(a - b)
        return float(np.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean())

    return distance * huber(sides[0][0], sides[1][0]) + angle * huber(sides[0][1], sides[1][1])


@pytest.mark.parametrize(("distance", "angle"), [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
def test_rkd_loss(distance: float, angle: float) -> None:
    s, t = randn(5, 3) + 4, randn(5, 6, seed=1)
    close(rkd_loss(s, t, distance, angle), plain_rkd(wide(s), wide(t), distance, angle))
    twins = torch.cat([s[:4], s[:1]])
    close(rkd_loss(twins, t, distance, angle), plain_rkd(wide(twins), wide(t), distance, angle))


def test_rkd_is_invariant_to_scale_shift_and_rotation() -> None:
    s = randn(8, 5)
    rotation = torch.linalg.qr(randn(5, 5, seed=1))[0]
    assert rkd_loss(3 * s @ rotation + 2, s).item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("self_neighbor", [True, False])
def test_pkt_loss(self_neighbor: bool) -> None:
    """Each sample is its own neighbor, as in the released code, or not, as in the paper."""
    s, t = randn(4, 3), randn(4, 5, seed=1)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j or self_neighbor]
    sides = []
    for x in map(wide, (s, t)):
        k = np.array([[(1 + a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / 2 for b in x] for a in x])
        sides.append({(i, j): k[i, j] / sum(k[i, m] for n, m in pairs if n == i) for i, j in pairs})
    q, p = sides
    close(pkt_loss(s, t, self_neighbor), sum(p[pair] * math.log(p[pair] / q[pair]) for pair in pairs) / 16)
    assert ProbabilisticTransfer().self_neighbor, "the released code's is the default"


@pytest.mark.parametrize("size", [2, 6], ids=["positions", "channels"])
def test_nst_loss_in_both_forms(size: int) -> None:
    s, t = randn(2, 3, size, size), randn(2, 4, 2 * size, 2 * size, seed=1)
    total = 0.0
    for x, y in zip(wide(s), halved(wide(t)), strict=True):
        f, g = ([channel.ravel() / np.linalg.norm(channel) for channel in a] for a in (x, y))
        k = [np.mean([[(u @ v) ** 2 for v in b] for u in a]) for a, b in ((g, g), (f, f), (f, g))]
        total += k[0] + k[1] - 2 * k[2]
    close(nst_loss(s, t), total / 2)


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_activation_boundary_loss(margin: float) -> None:
    s, t = randn(2, 3, 2, 2), randn(2, 3, 2, 2, seed=1)
    total = 0.0
    for x, y in zip(wide(s).flat, wide(t).flat, strict=True):
        rho = float(y > 0)
        total += (rho * max(0, margin - x) + (1 - rho) * max(0, margin + x)) ** 2
    close(activation_boundary_loss(s, t, margin), total / 2)
    assert activation_boundary_loss(torch.where(t > 0, 2.0, -2.0), t.relu()).item() == 0


def test_factor_loss() -> None:
    s, t = randn(2, 3, 2, 2), randn(2, 3, 2, 2, seed=1)
    total = 0.0
    for x, y in zip(wide(s), wide(t), strict=True):
        f, g = ((a**2).mean(0) for a in (x, y))  # where the factors are active
        total += abs(f / np.sqrt((f**2).sum()) - g / np.sqrt((g**2).sum())).sum()
    close(factor_loss(s, t), total / 8)


def test_fsp_loss() -> None:
    first, second, other, following = randn(2, 3, 4, 4), randn(2, 2, 2, 2), randn(2, 3, 2, 2), randn(2, 2, 2, 2, seed=1)
    total = 0.0
    for n in range(2):
        for i in range(3):
            for j in range(2):
                ours = (halved(wide(first))[n, i] * wide(second)[n, j]).sum() / 4
                theirs = (wide(other)[n, i] * wide(following)[n, j]).sum() / 4
                total += (ours - theirs) ** 2
    close(fsp_loss(first, second, other, following), total / 12)


# --- numbers that break naive code ----------------------------------------------------------------------

COMPARE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sp": similarity_loss,
    "cc": correlation_loss,
    "rkd": rkd_loss,
    "pkt": pkt_loss,
}
relations = pytest.mark.parametrize("loss", COMPARE.values(), ids=COMPARE)


@relations
@pytest.mark.parametrize("kind", ["identical", "zeros", "opposite", "one row", "huge", "nearly identical"])
def test_gradients_stay_finite_and_small(loss: Callable[[Tensor, Tensor], Tensor], kind: str) -> None:
    t, s = randn(6, 5, seed=1), randn(6, 4)
    if kind == "identical":
        s, t = s[:1].repeat(6, 1), t[:1].repeat(6, 1)
    elif kind == "zeros":
        s[1:3], t[2:4] = 0, 0
    elif kind == "opposite":
        s[1], t[3] = -s[0], -t[2]
    elif kind == "one row":
        s, t = s[:1], t[:1]
    elif kind == "huge":
        s, t = s * 1e6, t * 1e6
    else:
        s[1] = s[0] + 1e-4
    s.requires_grad_(True)
    value = loss(s, t)
    value.backward()
    assert value.isfinite()
    assert s.grad is not None
    assert s.grad.abs().max() < 1e7, "a clamped norm gives 1e12 here"


@pytest.mark.parametrize("loss", [attention_loss, nst_loss, factor_loss])
def test_gradients_are_bounded_at_all_zero_channels(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    s, t = randn(3, 4, 2, 2), randn(3, 4, 2, 2, seed=1)
    s[0], s[1, 2] = 0, 0
    s.requires_grad_(True)
    loss(s, t).backward()
    assert s.grad is not None
    assert s.grad.abs().max() < 10


@pytest.mark.parametrize("name", ["sp", "cc", "rkd", "pkt", "at", "nst"])
def test_functions_use_full_precision_under_autocast(name: str) -> None:
    loss = {**COMPARE, "at": attention_loss, "nst": nst_loss}[name]
    s, t = randn(8, 4, 3, 3).bfloat16(), randn(8, 4, 3, 3, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(s, t)
    torch.testing.assert_close(found, loss(s.float(), t), rtol=0, atol=0)


@pytest.mark.parametrize("name", CLASSIC)
def test_a_batch_of_one(name: str) -> None:
    objective = OBJECTIVES[name].from_shapes(CONTEXT)
    assert objective(signals(CONTEXT.student, 1), signals(CONTEXT.teacher, 1, seed=9), BATCH[:1]).isfinite()
    if name not in MAPS:
        vectors = BuildContext(Shapes(5, 8, {"h": (4,)}), Shapes(5, 12, {"h": (7,)}), torch.arange(20))
        objective = OBJECTIVES[name].from_shapes(vectors)
        assert objective(signals(vectors.student, 1), signals(vectors.teacher, 1, seed=9), BATCH[:1]).isfinite()


def test_channel_norm_is_batch_norm() -> None:
    x, ours, theirs = randn(4, 3, 2, 2), ChannelNorm(3), torch.nn.BatchNorm2d(3)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)


# --- which layers, and how they are fitted --------------------------------------------------------------


def pairs_of(name: str, context: BuildContext = CONTEXT, **options: object) -> list[tuple[str, str]]:
    objective = OBJECTIVES[name].from_shapes(context, **options)
    assert isinstance(objective, FeatureObjective)
    assert objective.needs.student == {pair.student for pair in objective.pairs}
    assert objective.needs.teacher == {pair.teacher for pair in objective.pairs}
    return [(pair.student, pair.teacher) for pair in objective.pairs]


def test_default_taps() -> None:
    every = [("a", "a"), ("b", "b"), ("c", "c")]
    for name in ("at", "vid", "nst", "ab", "fsp"):
        assert pairs_of(name) == every, "from the output end: the teacher's first tap is left over"
    assert pairs_of("fitnet") == [("b", "a")], "the second stage of each, counted from the input"
    assert pairs_of("fitnet", hint=1) == [("a", "z")]
    for name in ("sp", "ft"):
        assert pairs_of(name) == [("c", "c")]
    for name in ("cc", "cc-kernel", "rkd", "pkt"):
        assert pairs_of(name) == [("embedding", "embedding")]


def test_named_taps() -> None:
    assert pairs_of("at", taps=[("a", "z"), ("c", "b")]) == [("a", "z"), ("c", "b")]
    assert pairs_of("rkd", taps=[("c", "c")]) == [("c", "c")]
    assert pairs_of("vid", taps=[("embedding", "embedding")]) == [("embedding", "embedding")]


def test_only_relational_objectives_compare_samples() -> None:
    assert {name for name in CLASSIC if not OBJECTIVES[name].per_sample} == {"sp", "cc", "cc-kernel", "rkd", "pkt"}


@pytest.mark.parametrize("name", LAYERS)
def test_vectors_if_there_are_no_maps(name: str) -> None:
    vectors = BuildContext(
        Shapes(5, 8, {"h1": (9,), "h2": (4,)}), Shapes(5, 12, {"maps": (3, 4, 4), "h": (7,)}), torch.arange(20)
    )
    if name in MAPS:
        with pytest.raises(ValueError, match=r"feature maps.*h1, h2.*maps"):
            OBJECTIVES[name].from_shapes(vectors)
    else:
        assert pairs_of(name, vectors) == [("h1" if name == "fitnet" else "h2", "h")]
        objective = OBJECTIVES[name].from_shapes(vectors)
        assert objective(signals(vectors.student), signals(vectors.teacher, seed=9), BATCH).isfinite()


@pytest.mark.parametrize("name", [*LAYERS, "sp"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_context_without_taps(name: str, side: str) -> None:
    bare = Shapes(5, 8)
    context = BuildContext(
        bare if side == "student" else CONTEXT.student, bare if side == "teacher" else CONTEXT.teacher, CONTEXT.ids
    )
    with pytest.raises(ValueError, match=r"none.*tap such layers"):
        OBJECTIVES[name].from_shapes(context)


def test_maps_of_any_two_sizes_are_compared() -> None:
    context = BuildContext(
        Shapes(5, 8, {"a": (4, 7, 5), "b": (6, 3, 5)}), Shapes(5, 12, {"a": (6, 4, 8), "b": (9, 5, 2)}), CONTEXT.ids
    )
    for name in CLASSIC:
        objective = OBJECTIVES[name].from_shapes(context)
        assert objective(signals(context.student), signals(context.teacher, seed=9), BATCH).isfinite()


def test_fsp_has_no_projector_if_channels_agree() -> None:
    same = BuildContext(CONTEXT.student, Shapes(5, 12, {"x": (4, 4, 4), "y": (6, 4, 4), "z": (9, 2, 2)}), CONTEXT.ids)
    objective = FlowOfSolution.from_shapes(same)
    assert [len(list(projector.parameters())) for projector in objective.projectors] == [0, 0, 3]
    alike = FlowOfSolution([TapPair("a", "x", (4, 8, 8), (4, 4, 4)), TapPair("b", "y", (6, 4, 4), (6, 4, 4))])
    s, t = signals(same.student), signals(same.teacher, seed=9)
    expected = fsp_loss(s.features["a"], s.features["b"], t.features["x"], t.features["y"])
    torch.testing.assert_close(alike(s, t, BATCH), expected)


def test_the_paraphraser_is_trained_by_reconstruction_only() -> None:
    objective = FactorTransfer.from_shapes(CONTEXT)
    student, teacher = signals(CONTEXT.student), signals(CONTEXT.teacher, seed=9)
    objective(student, teacher, BATCH).backward()
    paraphraser = objective.paraphrasers[0]
    assert isinstance(paraphraser, Paraphraser)
    found = [p.grad.clone() for p in paraphraser.parameters() if p.grad is not None]
    paraphraser.zero_grad()
    (objective.reconstruction * paraphraser.reconstruction_loss(teacher.features["c"])).backward()
    expected = [p.grad for p in paraphraser.parameters()]
    torch.testing.assert_close(found, expected)


def test_a_trained_paraphraser_is_frozen() -> None:
    trained = Paraphraser(12, rate=0.25)
    with torch.inference_mode():
        layer = randn(6, 12, 2, 2)
    trained.reconstruction_loss(layer).backward()
    trained.zero_grad()
    objective = FactorTransfer.from_shapes(CONTEXT, paraphrasers=[trained])
    student, teacher = signals(CONTEXT.student), signals(CONTEXT.teacher, seed=9)
    loss = objective(student, teacher, BATCH)
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in trained.parameters())
    assert all(p.grad is not None for p in objective.translators.parameters())
    factor = objective.translators[0](student.features["c"])
    torch.testing.assert_close(loss, factor_loss(factor, trained(teacher.features["c"])))


def test_deeper_boundaries_are_weighted_more() -> None:
    objective = OBJECTIVES["ab"].from_shapes(CONTEXT).eval()
    assert isinstance(objective, FeatureObjective)
    s, t = randn(6, 4, 8, 8), randn(6, 6, 8, 8, seed=1)
    expected = 3e-3 / 4 * activation_boundary_loss(objective.connectors[0](s), t)  # type: ignore[index,operator]
    torch.testing.assert_close(objective.compare(0, s, t), expected)


# --- mistakes -------------------------------------------------------------------------------------------


def test_error_messages_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="student has no tap 'nope'; it has a, b, c, embedding"):
        FitNet.from_shapes(CONTEXT, taps=[("nope", "a")])
    with pytest.raises(ValueError, match="teacher has no tap 'nope'"):
        SimilarityPreserving.from_shapes(CONTEXT, taps=[("a", "nope")])
    with pytest.raises(ValueError, match="at least one TapPair"):
        AttentionTransfer([])
    with pytest.raises(ValueError, match=r"embedding is \(8,\).*choose other taps"):
        AttentionTransfer.from_shapes(CONTEXT, taps=[("embedding", "embedding")])
    with pytest.raises(ValueError, match=r"a is \(4, 8, 8\).*\(12,\)"):
        FitNet.from_shapes(CONTEXT, taps=[("a", "embedding")])
    with pytest.raises(ValueError, match="needs the shapes of both layers"):
        FitNet([TapPair("a", "a")])
    with pytest.raises(ValueError, match="at least two layers"):
        FlowOfSolution.from_shapes(CONTEXT, taps=[("a", "a")])
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(3, 2\)"):
        fsp_loss(randn(2, 4, 2, 2), randn(2, 6, 2, 2), randn(2, 3, 2, 2), randn(2, 2, 2, 2))
    with pytest.raises(ValueError, match="maps with maps"):
        attention_loss(randn(2, 4, 2, 2), randn(2, 4))
    with pytest.raises(ValueError, match=r"\[6, 10\] channels but the paraphrasers \[6\]"):
        FactorTransfer.from_shapes(CONTEXT, taps=[("a", "a"), ("b", "b")], paraphrasers=[Paraphraser(6)])
    with pytest.raises(ValueError, match="teacher's signals lack 'a'"):
        AttentionTransfer([TapPair("a", "a")])(signals(CONTEXT.student), Signals(randn(6, 5)), BATCH)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("at", {"power": 0.5}),
        ("cc-kernel", {"gamma": 0.0}),
        ("cc-kernel", {"order": 0}),
        ("cc", {"dim": 0}),
        ("fitnet", {"hint": 4}),
        ("fitnet", {"hint": 0}),
        ("vid", {"variance": 0.0}),
        ("rkd", {"distance": -1.0}),
        ("rkd", {"distance": 0.0, "angle": 0.0}),
        ("ab", {"margin": 0.0}),
        ("ft", {"rate": 0.0}),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|must not be"):
        OBJECTIVES[name].from_shapes(CONTEXT, **options)


def test_in_a_custom_loop() -> None:
    """Built from names and shapes, without a context."""
    hints = FitNet([TapPair("mid", "block4", (6, 4, 4), (10, 8, 8))])
    s, t = (
        Signals(randn(6, 5), None, {"mid": randn(6, 6, 4, 4)}),
        Signals(randn(6, 5), None, {"block4": randn(6, 10, 8, 8)}),
    )
    assert hints(s, t, BATCH).isfinite()
    for objective in (KernelCongruence(), RelationalKD()):
        assert objective(signals(CONTEXT.student), signals(CONTEXT.teacher, seed=9), BATCH).isfinite()
