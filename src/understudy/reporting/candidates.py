"""The candidates of a compression: which are not dominated, their picture, and their table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import hypot

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from understudy.evaluation.facts import CandidateFacts, CompressionFacts
from understudy.reporting.figures import COLORS, FAINT, INK, Panel, few_ticks, panel
from understudy.reporting.wording import MISSING, compact, moment

ROLES = {"student": "student, distilled", "alone": "student alone", "backbone": "backbone"}
_COLOR = {"student": COLORS["distilled"], "alone": COLORS["alone"], "backbone": COLORS["teacher"]}
_LARGEST, _LEAST, _EVEN = 420.0, 14.0, 60.0  # areas of markers in square points
_WIDE = 6  # a range of costs beyond this factor is drawn on a logarithmic axis


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate as it is shown."""

    number: int  # the same for both precisions of a network
    facts: CandidateFacts
    score: float | None  # as shown: on the test part, else on the validation part
    fast: bool  # none of the same part is as accurate and as fast, and better in one of both
    small: bool  # the same of the file size


def non_dominated(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    """Which points no other point dominates, by being nowhere worse and somewhere better.

    >>> non_dominated([1, 2, 3, 2], [0.5, 0.7, 0.6, 0.7])
    [True, True, False, True]
    """
    every = list(zip(costs, scores, strict=True))
    return [not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in every) for cost, score in every]


def candidates(facts: CompressionFacts) -> list[Candidate]:
    """All candidates, the most accurate network first, numbered; those without a score last."""
    best: dict[tuple[str, str, int], float] = {}
    for one in facts.candidates:
        key = _key(one)
        score = _score(one)
        best[key] = max(best.get(key, -1.0), -1.0 if score is None else score)
    numbers = {key: number for number, key in enumerate(sorted(best, key=lambda key: -best[key]), 1)}
    fronts: dict[int, tuple[bool, bool]] = {}
    for tested in (True, False):  # accuracies on different images are not compared
        of = [one for one in facts.candidates if _score(one) is not None and (one.accuracy is not None) is tested]
        scores = [_score(one) or 0.0 for one in of]
        fast, small = (non_dominated([getattr(one, cost) for one in of], scores) for cost in ("latency_ms", "bytes"))
        fronts |= {id(one): pair for one, pair in zip(of, zip(fast, small, strict=True), strict=True)}
    made = [
        Candidate(numbers[_key(one)], one, _score(one), *fronts.get(id(one), (False, False)))
        for one in facts.candidates
    ]
    return sorted(made, key=lambda one: (one.number, one.facts.precision))


def grouped(found: Sequence[Candidate]) -> list[list[Candidate]]:
    """The precisions of each network, in the order of their numbers."""
    return [list(of) for _, of in groupby(found, key=lambda one: one.number)]


def _key(one: CandidateFacts) -> tuple[str, str, int]:
    return one.model, one.role, one.size


def _score(one: CandidateFacts) -> float | None:
    return one.validation if one.accuracy is None else one.accuracy


def columns(facts: CompressionFacts) -> list[tuple[str, Callable[[CandidateFacts], str]]]:
    """The heads of the table of candidates with their units, and what each shows; those without any value left out."""

    def share(value: float | None) -> str:
        return MISSING if value is None else f"{100 * value:.1f}"

    every: list[tuple[str, Callable[[CandidateFacts], str]]] = [
        ("test, %", lambda one: share(one.accuracy)),
        ("validation, %", lambda one: share(one.validation)),
        ("latency, ms", lambda one: f"{one.latency_ms:.2f}"),
        ("file, MB", lambda one: f"{one.bytes / 1e6:.2f}"),
        ("rounds", lambda one: str(one.rounds) if one.rounds else MISSING),
    ]
    return [column for column in every if any(column[1](one) != MISSING for one in facts.candidates)]


def limits_note(facts: CompressionFacts) -> str:
    """The limits that were asked for, in words; "" without any.

    >>> facts = CompressionFacts.model_construct(limits={"latency_ms": 5.0, "bytes": 2e6, "slower": 3.0})
    >>> limits_note(facts)
    'latency of at most 5 ms here and 15 ms on the device, file of at most 2.00 MB'
    """
    slower = facts.limits.get("slower", 1.0)
    words: dict[str, Callable[[float], str]] = {
        "latency_ms": lambda x: (
            f"latency of at most {moment(x)}" + (f" here and {moment(slower * x)} on the device" if slower != 1 else "")
        ),
        "bytes": lambda x: f"file of at most {compact(x, 'B')}",
        "flops": lambda x: f"at most {compact(x)} FLOPs",
    }
    return ", ".join(words[name](value) for name, value in facts.limits.items() if name in words)


def pictures(facts: CompressionFacts) -> list[Panel]:
    """Accuracy against latency, with the file size as the marker's area, and against file size."""
    found = [one for one in candidates(facts) if one.score is not None]
    if len(found) < 2:
        return []
    return [
        Panel("Accuracy, %, against latency", _picture(found, "latency_ms", facts.limits.get("latency_ms"))),
        Panel("Accuracy, %, against file size", _picture(found, "bytes", facts.limits.get("bytes"))),
    ]


def _picture(found: Sequence[Candidate], cost: str, limit: float | None) -> Markup:
    fast = cost == "latency_ms"
    unit, scale = ("latency, ms, one image on one thread", 1.0) if fast else ("file, MB", 1e-6)
    label = f"Accuracy of each candidate against its {'latency' if fast else 'file size'}"
    largest = max(one.facts.bytes for one in found)
    with panel(f"pareto-{'latency' if fast else 'size'}", label, 3.6) as (ax, svg):
        points = [(scale * getattr(one.facts, cost), 100 * (one.score or 0.0)) for one in found]
        areas = [max(_LEAST, _LARGEST * one.facts.bytes / largest) if fast else _EVEN for one in found]
        _front(ax, found, points, fast)
        _twins(ax, found, points)
        for one, (x, y), area in zip(found, points, areas, strict=True):
            _mark(ax, one, x, y, area)
        if limit is not None:
            ax.axvline(scale * limit, color=FAINT, linewidth=1.2, linestyle=(0, (2, 2)), zorder=1)
        _axes(ax, [x for x, _ in points] + ([scale * limit] if limit is not None else []), unit)
        _numbers(ax, found, points, areas)
    return svg()


def _front(ax: Axes, found: Sequence[Candidate], points: Sequence[tuple[float, float]], fast: bool) -> None:
    """A line through those that are not dominated: of those scored on the test part, if there are several."""
    tested = [one.facts.accuracy is not None for one in found]
    measured = sum(tested) > 1
    on = sorted(
        {
            point
            for one, point, on_test in zip(found, points, tested, strict=True)
            if (one.fast if fast else one.small) and on_test is measured
        }
    )
    ax.plot([x for x, _ in on], [y for _, y in on], color=FAINT, linewidth=1.2, zorder=1)


def _twins(ax: Axes, found: Sequence[Candidate], points: Sequence[tuple[float, float]]) -> None:
    """A faint line between both precisions of a network."""
    for number in {one.number for one in found}:
        both = [point for one, point in zip(found, points, strict=True) if one.number == number]
        if len(both) > 1:
            ax.plot(*zip(*both, strict=True), color=FAINT, linewidth=0.8, alpha=0.5, zorder=1)


def _mark(ax: Axes, one: Candidate, x: float, y: float, area: float) -> None:
    """Filled for fp32 and hollow for int8; round for the test part, square for validation; a ring if it is chosen."""
    color, shape = _COLOR[one.facts.role], "o" if one.facts.accuracy is not None else "s"
    full = one.facts.precision == "fp32"
    ax.scatter(
        [x], [y], s=area, marker=shape, facecolors=color if full else "none", edgecolors=color, linewidths=1.6,
        alpha=0.85 if one.facts.stands else 0.3, zorder=3,
    )  # fmt: skip
    if one.facts.chosen:
        side = area**0.5 + 7
        ax.scatter([x], [y], s=side**2, marker="o", facecolors="none", edgecolors=INK, linewidths=1.6, zorder=4)


def _axes(ax: Axes, costs: Sequence[float], unit: str) -> None:
    ax.set_xlabel(unit)
    ax.grid(axis="x", visible=True)
    few_ticks(ax.yaxis)
    if min(costs) > 0 and max(costs) > _WIDE * min(costs):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(which="minor", bottom=False)
    else:
        few_ticks(ax.xaxis)
    ax.margins(x=0.14, y=0.14)


def _numbers(
    ax: Axes, found: Sequence[Candidate], points: Sequence[tuple[float, float]], areas: Sequence[float]
) -> None:
    """The number of each network beside one of its markers, each where it covers least."""
    box = ax.transData.transform  # before the layout is final, so that distances are approximate
    at = [tuple(box(point) * 72 / ax.figure.dpi) for point in points]
    taken = [(x, y, area**0.5 / 2) for (x, y), area in zip(at, areas, strict=True)]
    done: set[int] = set()
    for one, point, (x, y), area in sorted(
        zip(found, points, at, areas, strict=True), key=lambda item: (not item[0].facts.chosen, item[0].number)
    ):
        if one.number in done:
            continue
        done.add(one.number)
        reach = area**0.5 / 2 + (11 if one.facts.chosen else 8)
        offsets = [(reach * dx, reach * dy) for dx, dy in _AROUND]
        dx, dy = min(offsets, key=lambda offset: _covered(x + offset[0], y + offset[1], taken))
        taken.append((x + dx, y + dy, 6.0))
        weight = "bold" if one.facts.chosen else "normal"
        ax.annotate(
            str(one.number), point, (dx, dy), textcoords="offset points", ha="center", va="center", fontsize=10,
            color=INK if one.facts.stands else FAINT, fontweight=weight, zorder=5,
        )  # fmt: skip


_AROUND = ((0, 1), (0.8, 0.8), (1, 0), (0.8, -0.8), (0, -1), (-0.8, -0.8), (-1, 0), (-0.8, 0.8))


def _covered(x: float, y: float, taken: Sequence[tuple[float, float, float]]) -> float:
    """How much of what is drawn a label at this place would cover."""
    return sum(max(0.0, radius + 6.0 - hypot(x - cx, y - cy)) for cx, cy, radius in taken)
