"""The figures of a comparison: differences by method, accuracy against cost, and each method's own learning curve.

As in all figures nothing untrusted is drawn: a method's name is drawn with the characters of a method's name only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import isfinite
from statistics import fmean

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator

from understudy.reporting.comparison import Point, points
from understudy.reporting.contrast import contrasts
from understudy.reporting.facts import Curve, RunFacts
from understudy.reporting.figures import (
    COLOURS,
    FAINT,
    INK,
    Panel,
    Series,
    finite,
    height_of,
    limits,
    line,
    panel,
    scaled,
)
from understudy.reporting.labels import Box, is_far, place

_LONGEST = 18  # characters of a name that are drawn
_SIZE = 10.5  # of labels, in points


def drawn(name: str) -> str:
    """A name as it is drawn: the characters of methods' names, the others as `?`, a long one cut."""
    plain = re.sub(r"[^\w .,:+=()-]", "?", name)
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"


def differences(facts: RunFacts) -> list[Panel]:
    """Errors beside the reference's, method by method: a dot for each seed, the mean and its 95% interval."""
    found = [one for one in contrasts(facts) if one.differences]
    if not found:
        return []
    label = "Errors of each method less those of the reference: each seed, the mean and its 95% interval"
    with panel("differences", label, height_of(len(found))) as (ax, svg):
        ax.axvline(0, color=INK, linewidth=1)
        for place_, one in enumerate(found):
            colour = COLOURS[one.row.role]
            ax.plot(one.differences, [place_] * len(one.differences), "o", color=colour, markersize=6, alpha=0.5, mew=0)
            if one.interval:
                ax.hlines(place_, *one.interval, color=colour, linewidth=2.5)
            if len(one.differences) > 1:
                ax.plot([one.mean], [place_], "D", color=colour, markersize=7.5)
        ax.set_yticks(range(len(found)), [drawn(one.row.name) for one in found], color=INK)
        ax.set_ylim(len(found) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
        ax.set_xlabel("errors: left of zero fewer, right of it more")
        ax.margins(x=0.06)
    return [Panel("Errors beside the reference", svg())]


def front(facts: RunFacts) -> list[Panel]:
    """Accuracy against the cost of training, with the front of those that no other beats in both."""
    found = points(facts)
    if not found:
        return []
    unit, scale = ("µs", 1000) if max(point.cost for point in found) < 1 else ("ms", 1)
    label = "Accuracy of each method against the time that training takes for one image"
    with panel("front", label, 3.4) as (ax, svg):
        best = sorted((point for point in found if point.front), key=lambda point: point.cost)
        ax.step([scale * p.cost for p in best], [p.accuracy for p in best], where="post", color=FAINT,
                linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)  # fmt: skip
        for point in found:
            x, colour = scale * point.cost, COLOURS[point.row.role]
            if point.sd:
                ax.vlines(
                    x, point.accuracy - point.sd, point.accuracy + point.sd, color=colour, linewidth=1.4, alpha=0.6
                )
            ax.plot([x], [point.accuracy], "o", color=colour if point.front else "none", markersize=8.5,
                    markeredgecolor=colour, mew=1.6, zorder=3)  # fmt: skip
        ax.margins(x=0.16, y=0.14)
        ax.set_xlabel(f"training, {unit} an image")
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.grid(axis="x", visible=True)
        _label(ax, found, scale)
    return [Panel("Accuracy, %, against the cost of training", svg())]


def _label(ax: Axes, found: Sequence[Point], scale: float) -> None:
    """Write each point's name beside it; distances are in points of the finished figure."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # lays the axes out
    figure.set_layout_engine("none")  # and keeps them so: labels lie inside
    unit = 72 / figure.dpi

    def at(cost: float, accuracy: float) -> tuple[float, float]:
        x, y = ax.transData.transform((scale * cost, accuracy))
        return float(x) * unit, float(y) * unit

    centres = [at(point.cost, point.accuracy) for point in found]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    for point, (x, _) in zip(found, centres, strict=True):
        low, high = (at(point.cost, point.accuracy + side * (point.sd or 0))[1] for side in (-1, 1))
        taken.append((x - 2, low, x + 2, high))
    names = [drawn(point.row.name) for point in found]
    font = FontProperties(size=_SIZE)
    sizes = [(1.06 * TextPath((0, 0), name, prop=font).get_extents().width, 1.1 * _SIZE) for name in names]
    frame = ax.bbox
    boxes = place(centres, sizes, taken, (frame.x0 * unit, frame.y0 * unit, frame.x1 * unit, frame.y1 * unit))
    for point, name, centre, box in zip(found, names, centres, boxes, strict=True):
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        write = partial(ax.annotate, xycoords="figure points", textcoords="figure points")
        if is_far(centre, box):
            write("", middle, centre, arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6})
        colour = INK if point.front else FAINT
        write(name, middle, middle, color=colour, fontsize=_SIZE, ha="center", va="center", parse_math=False)


def curves(facts: RunFacts) -> tuple[str, list[Panel]]:
    """What is shown, and a panel for each method: its seeds and their mean, the student alone, faintly the others."""
    titles: dict[Series, str] = {
        "accuracy": "Accuracy on the samples trained on, %",
        "agreement": "Agreement with the teacher on the samples trained on, %",
    }
    shown: Series | None = next((s for s in titles if any(finite(getattr(c, s)) for c in facts.curves)), None)
    if shown is None:
        return "", []
    of: dict[tuple[str, str], list[Curve]] = {}
    for curve in facts.curves:
        if getattr(curve, shown):
            of.setdefault((curve.role, curve.name), []).append(curve)
    methods = [key for key in of if key[0] == "distilled"]
    return titles[shown], [Panel(key[1], _curve(of, key, shown, number)) for number, key in enumerate(methods)]


def _curve(of: Mapping[tuple[str, str], Sequence[Curve]], key: tuple[str, str], series: Series, number: int) -> Markup:
    means = {one: mean for one, seeds in of.items() if (mean := _mean(seeds, series))}
    every = [scaled(curve, series, 100) for seeds in of.values() for curve in seeds]
    with panel(f"method{number}", f"{series.capitalize()} by epoch, the method against the others", 2.1) as (ax, svg):
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
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return svg()


def _mean(seeds: Sequence[Curve], series: Series) -> tuple[list[float], list[float]] | None:
    """The seeds' mean, epoch by epoch; None where their epochs differ."""
    if any(a.epoch != b.epoch for a, b in pairwise(seeds)):
        return None
    columns = zip(*(scaled(curve, series, 100) for curve in seeds), strict=True)
    return seeds[0].epoch, [fmean(column) for column in columns]
