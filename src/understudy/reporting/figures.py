"""Figures: SVG by matplotlib, inlined and colored by the CSS variables of the page.

Panels have the width of a phone. Untrusted text is not drawn: names stay in the HTML, where they are escaped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, isfinite, nan
from statistics import fmean
from typing import Any, Literal

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from understudy.evaluation.facts import Curve, Role, RunFacts
from understudy.reporting.gain import Gain

# Placeholders in the SVG that are replaced by the page's CSS variables.
INK, FAINT, RULE = "#0000a1", "#0000a2", "#0000a3"
COLORS: dict[Role, str] = {
    "teacher": "#0000b1", "member": "#0000b1", "alone": "#0000b2", "distilled": "#0000b3", "model": "#0000b3"
}  # fmt: skip
_VARIABLES = {INK: "--ink", FAINT: "--faint", RULE: "--rule"} | {
    COLORS[role]: f"--{role}" for role in ("teacher", "alone", "distilled")
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 11, "text.color": INK, "lines.solid_capstyle": "round",
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.edgecolor": RULE, "axes.labelcolor": FAINT, "axes.axisbelow": True,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": RULE, "grid.linewidth": 0.8,
    "xtick.color": RULE, "xtick.labelcolor": FAINT,
    "ytick.color": RULE, "ytick.labelcolor": FAINT, "ytick.major.size": 0,
}  # fmt: skip
_WIDTH = 4.5  # inches, of 72 units each: 324 units
_POINTS = 400  # curves of more points are thinned, as 324 units cannot show them

Series = Literal["loss", "accuracy", "agreement"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One small figure and its title."""

    title: str
    svg: Markup


def pairs(found: Gain) -> list[Panel]:
    """The errors per seed, alone and distilled, and the errors removed, with their mean and 95% interval."""
    if not found.seeds:
        return []
    removed = [Panel("Errors removed", _removed(found))] if len(found.seeds) > 1 else []
    return [Panel("Errors per seed", _pairs(found)), *removed]


def _pairs(found: Gain) -> Markup:
    labels, alone, distilled = [f"seed {seed}" for seed in found.seeds], [*found.alone], [*found.distilled]
    if len(found.seeds) > 1:
        labels.append("mean")
        alone, distilled = [*alone, found.alone_errors], [*distilled, found.distilled_errors]
    rows = range(len(labels))
    with panel("pairs", "Errors per seed, alone and distilled", height_of(len(rows))) as (ax, svg):
        ax.hlines(rows, alone, distilled, color=COLORS["distilled"], linewidth=1.6, alpha=0.45)
        ax.plot(alone, rows, "o", color="none", markeredgecolor=COLORS["alone"], markersize=8, mew=1.8)
        ax.plot(distilled, rows, "o", color=COLORS["distilled"], markersize=9)
        if found.teacher_errors is not None:
            ax.axvline(found.teacher_errors, color=COLORS["teacher"], linewidth=1.3, linestyle=(0, (4, 3)))
        _seed_axis(ax, labels)
        ax.set_xlabel("errors")
        ax.margins(x=0.08)
    return svg()


def _removed(found: Gain) -> Markup:
    mean_row, accent = len(found.seeds), COLORS["distilled"]
    label = f"Errors removed by distillation per seed, and their mean{' with its 95% interval' * bool(found.interval)}"
    with panel("removed", label, height_of(mean_row + 1)) as (ax, svg):
        ax.axvline(0, color=INK, linewidth=1)
        ax.plot(found.removed, range(mean_row), "o", color=accent, markersize=7, alpha=0.55, mew=0)
        if found.interval:
            ax.hlines(mean_row, *found.interval, color=accent, linewidth=3)
        ax.plot([found.mean], [mean_row], "D", color=accent, markersize=8.5)
        _seed_axis(ax, [*(f"seed {seed}" for seed in found.seeds), "mean"])
        ax.set_xlabel("errors removed (negative: added)")
        ax.margins(x=0.08)
    return svg()


def height_of(rows: int) -> float:
    return 0.85 + 0.34 * min(rows, 24)


def _seed_axis(ax: Axes, labels: list[str]) -> None:
    """One row per seed, the first on top; of very many seeds only some are labeled."""
    last = len(labels) - 1
    ticks = [*range(0, last, ceil(len(labels) / 24)), last]
    ax.set_yticks(ticks, [labels[tick] for tick in ticks])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    few_ticks(ax.xaxis, integer=True)


def few_ticks(axis: Axis, count: int = 5, *, integer: bool = False) -> None:
    """At most `count` intervals between round numbers."""
    axis.set_major_locator(MaxNLocator(count, integer=integer, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}".replace("-", "−")))


def shots_axis(ax: Axes, shots: Sequence[int], margin: float) -> None:
    """Accuracies against numbers of examples per class, which are the ticks of a logarithmic axis."""
    ax.set_xscale("log")
    ax.set_xticks(shots)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="minor", bottom=False)
    ax.set_xlabel("examples per class")
    ax.margins(x=margin, y=0.1)
    few_ticks(ax.yaxis)


def rows_axis(ax: Axes, labels: Sequence[str], margin: float) -> None:
    """Accuracies in rows from top to bottom, with short labels: names stay in the HTML, where they are escaped."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    ax.set_xlabel("test accuracy, %")
    ax.margins(x=margin)
    few_ticks(ax.xaxis)


def curves(facts: RunFacts) -> list[Panel]:
    """Training curves, one panel per series: a faint line per seed, and a strong one for their mean."""
    titles: tuple[tuple[Series, str], ...] = (
        ("loss", "Training loss"), ("accuracy", "Accuracy, %"), ("agreement", "Agreement with the teacher, %")
    )  # fmt: skip
    shown = (pair for pair in titles if any(finite(getattr(curve, pair[0])) for curve in facts.curves))
    return [Panel(title, _curves(facts, series)) for series, title in shown]


def dashes(facts: RunFacts) -> dict[tuple[Role, str], int]:
    """The index of the dash pattern of each role and name; the first name of a role is solid."""
    names: dict[Role, list[str]] = {}
    for curve in facts.curves:
        if curve.name not in names.setdefault(curve.role, []):
            names[curve.role].append(curve.name)
    return {(role, name): i % len(DASHES) for role, of in names.items() for i, name in enumerate(of)}


DASHES = ("", "6 3", "2 2.5", "7 2.5 1.5 2.5")


def _curves(facts: RunFacts, series: Series) -> Markup:
    scale = 1 if series == "loss" else 100
    shown: list[float] = []
    with panel(series, f"{series.capitalize()} by epoch", 2.9) as (ax, svg):
        for (role, name), dash in dashes(facts).items():
            seeds = [c for c in facts.curves if (c.role, c.name) == (role, name) and getattr(c, series)]
            for curve in seeds:
                shown += line(ax, curve.epoch, scaled(curve, series, scale), role, dash, faint=len(seeds) > 1)
            if len(seeds) > 1 and (mean := mean_curve(seeds, series, scale)):
                line(ax, *mean, role, dash)
        limits(ax, shown, falling=series == "loss")
        ax.set_xlabel("epoch")
        few_ticks(ax.xaxis, integer=True)
        few_ticks(ax.yaxis)
    return svg()


def scaled(curve: Curve, series: Series, scale: float) -> list[float]:
    return [nan if value is None else scale * value for value in getattr(curve, series)]


def mean_curve(seeds: Sequence[Curve], series: Series, scale: float) -> tuple[list[float], list[float]] | None:
    """Epochs, and the mean over seeds; None if the seeds' epochs differ."""
    if any(curve.epoch != seeds[0].epoch for curve in seeds):
        return None
    columns = zip(*(scaled(curve, series, scale) for curve in seeds), strict=True)
    return seeds[0].epoch, [fmean(column) for column in columns]


def finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and isfinite(value)]


def line(ax: Axes, epochs: list[float], values: list[float], role: Role, dash: int, faint: bool = False) -> list[float]:
    """Draw one curve without its gaps, and return its values after the first tenth of training."""
    points = [(x, y) for x, y in zip(epochs, values, strict=True) if isfinite(y)]
    if not points:
        return []
    step = ceil(len(points) / _POINTS)
    x, y = zip(*points[::-step][::-1], strict=True)  # from the end, to keep the last epoch
    style: Any = "-" if not DASHES[dash] else (0, tuple(float(part) for part in DASHES[dash].split()))
    width, alpha = (0.9, 0.4) if faint else (2, 1)
    marker = "o" if len(x) == 1 else None
    ax.plot(x, y, color=COLORS[role], linestyle=style, linewidth=width, alpha=alpha, marker=marker)
    return list(y[len(y) // 10 :])


def limits(ax: Axes, shown: list[float], falling: bool) -> None:
    """Fit the axis to the values after the first tenth of training, so that its start does not flatten the rest."""
    if not shown or min(shown) == max(shown):
        return
    margin = 0.06 * (max(shown) - min(shown))
    low, high = min(shown) - margin, max(shown) + margin
    ax.set_ylim(max(0, low) if falling and min(shown) >= 0 else low, high if falling else min(high, 100.5))


@contextmanager
def panel(name: str, label: str, height: float) -> Iterator[tuple[Axes, Callable[[], Markup]]]:
    """Axes in the page's style, and a function that returns the SVG after the block."""
    with drawing(name, label, (_WIDTH, height)) as (figure, svg):
        yield figure.subplots(), svg


@contextmanager
def drawing(name: str, label: str, size: tuple[float, float]) -> Iterator[tuple[Figure, Callable[[], Markup]]]:
    """A figure in the page's style of some size in inches, and a function that returns the SVG after the block."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        drawn: list[Markup] = []
        yield figure, lambda: drawn[0]
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
        drawn.append(_inline(buffer.getvalue(), name, label))


def _inline(svg: str, name: str, label: str) -> Markup:
    """An SVG for inlining in HTML: without prolog and fixed size, with the page's fonts and colors and unique ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| version="1.1"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg)
    svg = svg.replace("xlink:href", "href")
    # of a font only the size is kept; matplotlib writes the family separately or, in older versions, as a shorthand
    svg = re.sub(r"font-family: [^;\"]*;?|font: ([\d.]+px) [^;\"]*", lambda m: f"font-size: {m[1]}" * bool(m[1]), svg)
    referenced = set(re.findall(r"[\"(]#([\w.-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda m: m[0] if m[1] in referenced else "", svg)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    svg = re.sub(r"\s*\n\s*", " ", svg).strip()
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
