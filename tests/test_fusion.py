"""The joint answer of a generalist and its specialists: closed forms, a generic optimizer, what always holds."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from understudy.errors import UnderstudyError, UnderstudyWarning
from understudy.models import InputContract, Network, build
from understudy.panels.fusion import TOLERANCE, Groups
from understudy.panels.panel import SpecialistPanel, collapse_to_group
from understudy.signals import Batch
from understudy.teachers import Ensemble, Teacher


def total(log_q: np.ndarray, general: np.ndarray, special: list[np.ndarray], groups: list[list[int]]) -> float:
    """Equation 5 for one sample and active specialists, written out."""

    def log_softmax(z: np.ndarray) -> np.ndarray:
        return z - z.max() - np.log(np.exp(z - z.max()).sum())

    log_p = log_softmax(general)
    found = float((np.exp(log_p) * (log_p - log_q)).sum())
    for logits, group in zip(special, groups, strict=True):
        log_p = log_softmax(logits)
        rest = np.setdiff1d(np.arange(len(log_q)), group)
        other = np.append(log_q[group], np.logaddexp.reduce(log_q[rest]))
        found += float((np.exp(log_p) * (log_p - other)).sum())
    return found


def by_scipy(general: np.ndarray, special: list[np.ndarray], groups: list[list[int]]) -> tuple[np.ndarray, float]:
    """q and the sum, by L-BFGS on z with q = softmax(z), and its gradient `K q - a - sum_m d_m pi_m`."""

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max())
        return e / e.sum()

    p, each = softmax(general), [softmax(z) for z in special]

    def value(z: np.ndarray) -> tuple[float, np.ndarray]:
        q = softmax(z)
        slope = (1 + len(groups)) * q - p
        for own, group in zip(each, groups, strict=True):
            rest = np.setdiff1d(np.arange(len(q)), group)
            slope[group] -= own[:-1]
            slope[rest] -= own[-1] * q[rest] / q[rest].sum()
        log_q = z - z.max() - np.log(np.exp(z - z.max()).sum())
        return total(log_q, general, special, groups), slope

    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 0, "gtol": 1e-12, "maxcor": 30}
    found = minimize(value, general.astype(float), jac=True, method="L-BFGS-B", options=options)
    return softmax(found.x), float(found.fun)


@st.composite
def panels(draw: st.DrawFn, scale: float = 3.0, most: int = 5) -> tuple[Tensor, list[Tensor], list[list[int]]]:
    classes = draw(st.integers(2, 12))
    groups = draw(
        st.lists(
            st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes - 1, unique=True).map(sorted),
            min_size=0,
            max_size=most,
        )
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.floats(0.1, scale))
    general = spread * torch.randn(4, classes, generator=generator, dtype=torch.float64)
    special = [spread * torch.randn(4, len(group) + 1, generator=generator, dtype=torch.float64) for group in groups]
    return general, special, groups


# ---- closed forms


@given(panels(most=1))
@settings(max_examples=15, deadline=None)
def test_no_specialist_leaves_the_generalist_as_it_is(panel: tuple[Tensor, list[Tensor], list[list[int]]]) -> None:
    general, special, groups = panel
    none = torch.zeros(4, len(groups), dtype=torch.bool)
    found = Groups(groups, general.shape[1]).fuse(general, special, none)
    torch.testing.assert_close(found.log_probs, general.log_softmax(1), rtol=0, atol=1e-12)
    assert found.unfinished == 0


@given(panels(most=1, scale=30))
@settings(max_examples=25, deadline=None)
def test_one_specialist_is_averaged_with_its_dustbin_shared_out(
    panel: tuple[Tensor, list[Tensor], list[list[int]]],
) -> None:
    general, special, groups = panel
    assume(groups)
    p, own = general.softmax(1), special[0].softmax(1)
    rest = [c for c in range(general.shape[1]) if c not in groups[0]]
    q = p.clone()
    q[:, groups[0]] = (p[:, groups[0]] + own[:, :-1]) / 2
    q[:, rest] = (p[:, rest] + own[:, -1:] * general[:, rest].softmax(1)) / 2
    found = Groups(groups, general.shape[1]).fuse(general, special)
    torch.testing.assert_close(found.log_probs.exp(), q, rtol=1e-9, atol=1e-12)
    assert found.steps == 1


def test_two_specialists_of_one_group_weigh_as_two() -> None:
    general, special = torch.randn(3, 6).double(), [torch.randn(3, 3).double()] * 2
    groups = Groups([[0, 1], [0, 1]], 6)
    p, own = general.softmax(1), special[0].softmax(1)
    share = general[:, 2:].softmax(1)
    q = torch.cat([p[:, :2] + 2 * own[:, :2], p[:, 2:] + 2 * own[:, 2:] * share], 1) / 3
    torch.testing.assert_close(groups.fuse(general, special).log_probs.exp(), q, rtol=1e-7, atol=1e-9)


# ---- the least sum


@given(panels())
@settings(max_examples=25, deadline=None)
def test_as_low_as_a_generic_optimizer_and_as_near(panel: tuple[Tensor, list[Tensor], list[list[int]]]) -> None:
    general, special, groups = panel
    found = Groups(groups, general.shape[1]).fuse(general, special)
    assert found.unfinished == 0
    for row in range(2):
        arrays = general[row].numpy(), [z[row].numpy() for z in special], groups
        q, least = by_scipy(*arrays)
        assert total(found.log_probs[row].numpy(), *arrays) <= least + 1e-9
        np.testing.assert_allclose(found.log_probs[row].exp().numpy(), q, atol=1e-6)


@given(panels())
@settings(max_examples=15, deadline=None)
def test_the_gap_bounds_what_is_left(panel: tuple[Tensor, list[Tensor], list[list[int]]]) -> None:
    """Stopped at any step, the sum is above its least by no more than the gap says."""
    general, special, groups = panel
    layout = Groups(groups, general.shape[1])
    best = layout.fuse(general, special)
    for limit in (2, 4, 7):
        early = layout.fuse(general, special, limit=limit)
        for row in range(4):
            arrays = general[row].numpy(), [z[row].numpy() for z in special], groups
            left = total(early.log_probs[row].numpy(), *arrays) - total(best.log_probs[row].numpy(), *arrays)
            assert left <= (len(groups) + 1) * float(early.gap[row]) + 1e-8


@given(panels(scale=200, most=8), st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_any_finite_logits_give_a_distribution(
    panel: tuple[Tensor, list[Tensor], list[list[int]]], chosen: int
) -> None:
    general, special, groups = panel
    active = torch.tensor([[bool(chosen >> (4 * m + row) & 1) for m in range(len(groups))] for row in range(4)])
    active = active.reshape(4, len(groups))
    found = Groups(groups, general.shape[1]).fuse(general.float(), [z.float() for z in special], active)
    assert found.log_probs.isfinite().all()
    torch.testing.assert_close(found.log_probs.exp().sum(1), torch.ones(4, dtype=torch.float64))
    assert found.unfinished == 0


@pytest.mark.parametrize(
    ("groups", "general", "special"),
    [
        ([[1], [1, 2]], [-13.7058, 27.1351, -14.3962], [[8.0, 25.5], [36.5, 25.5, -3.5]]),
        ([[1], [1, 2]], [-13.7058, 27.1351, -14.3962], [[-39.5, 18.0], [-11.0, -30.0, -39.5]]),
        ([[1], [0]], [117.0145, -27.6943, -121.0266], [[-15.6428, 38.9282], [48.9197, 4.3334]]),
        ([[2], [3]], [-32.5, -68.4, 113.8, 232.0, -278.0], [[-353.1, -135.0], [-82.0, -122.6]]),
    ],
)
def test_saturated_logits_on_which_em_stalls(
    groups: list[list[int]], general: list[float], special: list[list[float]]
) -> None:
    """After 600 EM steps the gap is still between 7e-7 and 0.33 nats; a few interior-point steps close it."""
    classes = Groups(groups, len(general))
    logits = torch.tensor([general]), [torch.tensor([z]) for z in special]
    stalled = classes.fuse(*logits, limit=600)
    assert float(stalled.gap) > 100 * TOLERANCE[torch.float64]
    found = classes.fuse(*logits)
    assert float(found.gap) <= TOLERANCE[torch.float64]
    assert found.steps <= stalled.steps + 40
    assert float(found.log_probs.exp().sum()) == pytest.approx(1, abs=1e-12)
    arrays = logits[0][0].numpy(), [z[0].numpy() for z in logits[1]], groups
    assert total(found.log_probs[0].numpy(), *arrays) <= total(stalled.log_probs[0].numpy(), *arrays) + 1e-12


def test_twenty_that_overlap_converge_well_within_the_limit() -> None:
    draw = torch.Generator().manual_seed(0)
    groups = [torch.randperm(200, generator=draw)[:12].sort().values.tolist() for _ in range(20)]
    general = 3 * torch.randn(60, 200, generator=draw)
    special = [3 * torch.randn(60, 13, generator=draw) for _ in groups]
    found = Groups(groups, 200).fuse(general, special)
    assert found.unfinished == 0
    assert found.steps <= 300
    assert float(found.gap.max()) <= TOLERANCE[torch.float64]


def test_rows_do_not_depend_on_their_neighbors() -> None:
    draw = torch.Generator().manual_seed(1)
    groups = [[0, 1, 2], [2, 3], [1, 4, 5]]
    general, special = torch.randn(30, 9, generator=draw), [torch.randn(30, len(g) + 1, generator=draw) for g in groups]
    layout = Groups(groups, 9)
    whole = layout.fuse(general, special).log_probs
    for row in (0, 13, 29):
        alone = layout.fuse(general[row : row + 1], [z[row : row + 1] for z in special]).log_probs
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=1e-8)
    assert layout.fuse(general[:0], [z[:0] for z in special]).log_probs.shape == (0, 9)


def test_who_is_active() -> None:
    layout = Groups([[0, 1], [1, 2], [3]], 5)
    logits = torch.tensor([[9.0, 5, 1, 0, 0], [0.0, 9, 0, 0, 8], [0.0, 0, 0, 1, 9]])
    expected = [[True, False, False], [True, True, False], [False, False, False]]
    assert layout.active(logits).tolist() == expected
    assert layout.active(logits, 2).tolist() == [[True, True, False], [True, True, False], [False, False, True]]


# ---- the panel

NAMES = tuple("abcdef")
GROUPS = [(0, 1), (2, 4), (1, 2, 3)]


def net(classes: tuple[str, ...], seed: int, spec: str = "cnn:4") -> Network:
    return build(spec, InputContract((1, 8, 8), (0.4,), (0.3,), classes), seed=seed)


def panel(top_n: int = 1, soft: bool = False) -> SpecialistPanel:
    own = [NAMES if soft else (*(NAMES[i] for i in group), "dustbin") for group in GROUPS]
    return SpecialistPanel(net(NAMES, 0), [net(names, 1 + k) for k, names in enumerate(own)], GROUPS, top_n)


def batch(rows: int = 20, seed: int = 0) -> Batch:
    ids = torch.arange(rows)
    return Batch(ids, ids, torch.rand(rows, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 3)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("top_n", [1, 3])
def test_a_panel_asks_those_that_are_active_and_joins_them(top_n: int, soft: bool) -> None:
    made, samples = panel(top_n, soft), batch()
    said = made.consult(samples)
    general = made.generalist(samples).logits
    each = [one(samples).logits for one in made.specialists]
    if soft:
        each = [collapse_to_group(z, torch.tensor(group)) for z, group in zip(each, GROUPS, strict=True)]
    top = general.topk(top_n, 1).indices.tolist()
    for row in range(len(samples)):
        asked = [m for m, group in enumerate(GROUPS) if set(group) & set(top[row])]
        assert said.active[row].nonzero().flatten().tolist() == asked
        arrays = [each[m][row].double().detach().numpy() for m in asked]
        q, _ = by_scipy(general[row].double().detach().numpy(), arrays, [list(GROUPS[m]) for m in asked])
        np.testing.assert_allclose(said.fused.log_probs[row].exp().numpy(), q, atol=2e-6)
    torch.testing.assert_close(made(samples).logits, said.fused.log_probs.float())


def test_a_soft_specialist_collapses_to_sums_of_probabilities() -> None:
    logits = torch.randn(5, 6)
    found = collapse_to_group(logits, torch.tensor([1, 4])).softmax(1)
    p = logits.softmax(1)
    torch.testing.assert_close(found[:, :2], p[:, [1, 4]])
    torch.testing.assert_close(found[:, 2], p[:, [0, 2, 3, 5]].sum(1))


def test_a_panel_stands_where_a_teacher_does() -> None:
    made, samples = panel(), batch()
    made.train()
    assert not any(part.training for part in made.modules())
    assert not any(x.requires_grad for x in made.parameters())
    made.watch({"embedding"})
    said = made(samples)
    assert said.embedding is not None
    torch.testing.assert_close(said.embedding, made.generalist(samples).embedding)
    assert made.shapes().classes == len(NAMES)
    both = Ensemble([made.placed("cpu"), Teacher(net(NAMES, 9))])
    both.watch({"embedding"})
    joined = both(samples)
    assert len(joined.members) == 2
    expected = (made(samples).logits.softmax(1) + joined.members[1].logits.softmax(1)) / 2
    torch.testing.assert_close(joined.logits.exp(), expected)


def test_what_does_not_fit_and_what_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [net((*(NAMES[i] for i in group), "dustbin"), 1) for group in GROUPS]
    with pytest.raises(UnderstudyError, match="specialist 0 has the classes c, e, dustbin, but its group is a, b"):
        SpecialistPanel(net(NAMES, 0), [own[1], own[0], own[2]], GROUPS)
    with pytest.raises(UnderstudyError, match="top_n must be between 1 and 6"):
        SpecialistPanel(net(NAMES, 0), own, GROUPS, 7)
    made = panel(3)
    real = made.groups.fuse
    monkeypatch.setattr(made.groups, "fuse", lambda *args: real(*args, limit=2))
    with pytest.warns(UnderstudyWarning, match="did not converge for .* nats after 2 steps"):
        made(batch())
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(batch())
