"""Figures of a comparison: differences per method, accuracy against training cost, and each method's learning curve."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from understudy.evaluation.facts import Curve, RunFacts
from understudy.reporting.comparison import Point, points
from understudy.reporting.contrast import contrasts
from understudy.reporting.figures import (
    COLORS,
    FAINT,
    INK,
    Panel,
    Series,
    few_ticks,
    finite,
    height_of,
    limits,
    line,
    mean_curve,
    panel,
    scaled,
)

_LONGEST = 18  # characters of a name that are drawn
_LINE_HEIGHT = 0.18  # inches per label


def drawn(name: str) -> str:
    """A name, which is untrusted, as it is drawn: unusual characters replaced by `?`, and shortened.

    >>> drawn("crd+kd"), drawn("<b>"), drawn("a" * 30)
    ('crd+kd', '?b?', 'aaaaaaaaaaaaaaaaa…')
    """
    plain = re.sub(r"[^\w .,:+=()-]", "?", name)
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"


def differences(facts: RunFacts) -> list[Panel]:
    """Errors minus those of the reference: a dot per seed, and the mean with its 95% interval."""
    found = [one for one in contrasts(facts) if one.differences]
    if not found:
        return []
    interval = " with its 95% interval" if any(one.interval for one in found) else ""
    label = f"Errors of each method minus those of the reference: each seed, and the mean{interval}"
    with panel("differences", label, height_of(len(found))) as (ax, svg):
        ax.axvline(0, color=INK, linewidth=1)
        for row, one in enumerate(found):
            color = COLORS[one.row.role]
            ax.plot(one.differences, [row] * len(one.differences), "o", color=color, markersize=6, alpha=0.5, mew=0)
            if one.interval:
                ax.hlines(row, *one.interval, color=color, linewidth=2.5)
            if len(one.differences) > 1:
                ax.plot([one.mean], [row], "D", color=color, markersize=7.5)
        ax.set_yticks(range(len(found)), [drawn(one.row.name) for one in found], color=INK)
        ax.set_ylim(len(found) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
        few_ticks(ax.xaxis, integer=True)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
        ax.set_xlabel("difference in errors (negative: fewer)")
        ax.margins(x=0.06)
    return [Panel("Errors compared with the reference", svg())]


def front(facts: RunFacts) -> list[Panel]:
    """Accuracy against training cost, with the Pareto front."""
    found = points(facts)
    if not found:
        return []
    unit, scale = ("µs", 1000) if max(point.cost for point in found) < 1 else ("ms", 1)
    label = "Accuracy of each method against its training time per image"
    with panel("front", label, max(3.4, 0.9 + _LINE_HEIGHT * len(found))) as (ax, svg):
        draw_front(ax, found, scale)
        ax.set_xlabel(f"training, {unit} per image")
    return [Panel("Accuracy, %, against training cost", svg())]


def draw_front(ax: Axes, found: Sequence[Point], scale: float = 1) -> None:
    """Points with bars of one sd, filled on the front, and names to the right, where they cannot cover a point."""
    best = sorted((point for point in found if point.front), key=lambda point: point.cost)
    ax.step([scale * p.cost for p in best], [p.accuracy for p in best], where="post", color=FAINT,
            linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)  # fmt: skip
    for point in found:
        x, color = scale * point.cost, COLORS[point.row.role]
        if point.sd:
            ax.vlines(x, point.accuracy - point.sd, point.accuracy + point.sd, color=color, linewidth=1.4, alpha=0.6)
        ax.plot([x], [point.accuracy], "o", color=color if point.front else "none", markersize=8.5,
                markeredgecolor=color, mew=1.6, zorder=3)  # fmt: skip
    ax.margins(x=0.08, y=0.1)
    few_ticks(ax.xaxis)
    few_ticks(ax.yaxis)
    ax.grid(axis="x", visible=True)
    # names in the order of the accuracy, so that the lines to the points rarely cross
    ordered = sorted(found, key=lambda point: (point.accuracy, -point.cost))
    low, high = ax.get_ylim()
    heights = _spread([(point.accuracy - low) / (high - low) for point in ordered])
    for point, height in zip(ordered, heights, strict=True):
        ax.annotate(
            drawn(point.row.name), (scale * point.cost, point.accuracy), (1.06, height), textcoords="axes fraction",
            color=INK if point.front else FAINT, fontsize=10.5, va="center", parse_math=False,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "alpha": 0.6, "shrinkB": 5},
        )  # fmt: skip


def _spread(heights: Sequence[float]) -> list[float]:
    """Rising heights in [0, 1] moved apart to an equal minimum distance, at most a fourteenth."""
    step = 1 / max(len(heights) - 1, 14)
    spread: list[float] = []
    for height in heights:
        spread.append(max(height, spread[-1] + step) if spread else height)
    top = 1.0
    for i in reversed(range(len(spread))):
        spread[i] = min(spread[i], top)
        top = spread[i] - step
    return spread


def curves(facts: RunFacts) -> tuple[str, list[Panel]]:
    """A title, and a panel per method: its seeds and their mean, the student alone, and faintly the other methods."""
    titles: tuple[tuple[Series, str], ...] = (
        ("accuracy", "Training accuracy, %"), ("agreement", "Agreement with the teacher on the training samples, %")
    )  # fmt: skip
    for series, title in titles:
        if any(finite(getattr(curve, series)) for curve in facts.curves):
            of: dict[tuple[str, str], list[Curve]] = {}
            for curve in facts.curves:
                if getattr(curve, series):
                    of.setdefault((curve.role, curve.name), []).append(curve)
            methods = [key for key in of if key[0] == "distilled"]
            return title, [Panel(key[1], _curve(of, key, series, number)) for number, key in enumerate(methods)]
    return "", []


def _curve(of: Mapping[tuple[str, str], Sequence[Curve]], key: tuple[str, str], series: Series, number: int) -> Markup:
    means = {name: mean for name, seeds in of.items() if (mean := mean_curve(seeds, series, 100))}
    every = [scaled(curve, series, 100) for seeds in of.values() for curve in seeds]
    with panel(f"method{number}", f"{series.capitalize()} by epoch, the method and the others", 2.1) as (ax, svg):
        for (role, _), (epochs, values) in means.items():
            if role == "alone":
                line(ax, epochs, values, "alone", 0)
            else:
                ax.plot(epochs, values, color=FAINT, linewidth=1, alpha=0.35)
        for curve in of[key]:
            line(ax, curve.epoch, scaled(curve, series, 100), "distilled", 0, faint=True)
        if key in means:
            line(ax, *means[key], "distilled", 0)
        limits(ax, [y for values in every for y in values[len(values) // 10 :] if isfinite(y)], falling=False)
        few_ticks(ax.xaxis, integer=True)
        few_ticks(ax.yaxis, 4)
    return svg()
