"""The figures: matplotlib's SVG, inlined and coloured by the page's own CSS variables.

Each panel is drawn at the width of a phone and the page lays panels side by side where there is room, so text
keeps its size. Nothing untrusted is ever drawn: names stay in the HTML, where they are escaped.
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
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from understudy.reporting.facts import Curve, Role, RunFacts
from understudy.reporting.gain import Gain

# Placeholder colours that stand in the SVG for the page's variables, and are replaced by them.
INK, FAINT, RULE = "#0000a1", "#0000a2", "#0000a3"
COLOURS: dict[Role, str] = {
    "teacher": "#0000b1",
    "member": "#0000b1",
    "alone": "#0000b2",
    "distilled": "#0000b3",
    "model": "#0000b3",
}
_VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    RULE: "--rule",
    COLOURS["teacher"]: "--teacher",
    COLOURS["alone"]: "--alone",
    COLOURS["distilled"]: "--distilled",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}
_WIDTH = 4.5  # inches; 72 units each, so 324 in all
_POINTS = 400  # points above which a curve is thinned: a line of 324 units shows no more

Series = Literal["loss", "accuracy", "agreement"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One small figure: what it shows, in words, and its drawing."""

    title: str
    svg: Markup


def pairs(found: Gain) -> list[Panel]:
    """Each seed's errors alone and distilled, and the errors removed with their mean and 95% interval."""
    if not found.seeds:
        return []
    panels = [Panel("Errors, seed by seed", _pairs(found))]
    if len(found.seeds) > 1:
        panels.append(Panel("Errors removed", _removed(found)))
    return panels


def _pairs(found: Gain) -> Markup:
    labels, alone, distilled = _seed_names(found), [*found.alone], [*found.distilled]
    if len(found.seeds) > 1:
        labels, alone, distilled = (
            [*labels, "mean"],
            [*alone, found.alone_errors],
            [*distilled, found.distilled_errors],
        )
    rows = range(len(labels))
    with panel("pairs", "Errors of each seed, alone and distilled", height_of(len(rows))) as (ax, svg):
        ax.hlines(rows, alone, distilled, color=COLOURS["distilled"], linewidth=1.6, alpha=0.45)
        ax.plot(alone, rows, "o", color="none", markeredgecolor=COLOURS["alone"], markersize=8, mew=1.8)
        ax.plot(distilled, rows, "o", color=COLOURS["distilled"], markersize=9)
        if found.teacher_errors is not None:
            ax.axvline(found.teacher_errors, color=COLOURS["teacher"], linewidth=1.3, linestyle=(0, (4, 3)))
        _seed_axis(ax, labels)
        ax.set_xlabel("errors")
        ax.margins(x=0.08)
    return svg()


def _removed(found: Gain) -> Markup:
    rows = range(len(found.seeds))
    accent = COLOURS["distilled"]
    label = "Errors that distillation removed, by seed, with the mean and its 95% interval"
    with panel("removed", label, height_of(len(rows) + 1)) as (ax, svg):
        ax.axvline(0, color=INK, linewidth=1)
        ax.plot(found.removed, rows, "o", color=accent, markersize=7, alpha=0.55, mew=0)
        mean_row = len(found.seeds)
        if found.interval:
            ax.hlines(mean_row, *found.interval, color=accent, linewidth=3)
        ax.plot([found.mean], [mean_row], "D", color=accent, markersize=8.5)
        _seed_axis(ax, [*_seed_names(found), "mean"])
        ax.set_xlabel("errors removed; left of zero, added")
        ax.margins(x=0.08)
    return svg()


def _seed_names(found: Gain) -> list[str]:
    return [f"seed {seed}" for seed in found.seeds]


def height_of(rows: int) -> float:
    return 0.85 + 0.34 * min(rows, 24)


def _seed_axis(ax: Axes, labels: list[str]) -> None:
    """One row a seed, the first on top; with very many seeds only some are named."""
    last = len(labels) - 1
    ticks = [*range(0, last, ceil(len(labels) / 24)), last]
    ax.set_yticks(ticks, [labels[tick] for tick in ticks])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))


def curves(facts: RunFacts) -> list[Panel]:
    """Small multiples of training: a faint line for each seed, a strong one for their mean."""
    titles: dict[Series, str] = {
        "loss": "Loss of the objective",
        "accuracy": "Accuracy, %",
        "agreement": "Agreement with the teacher, %",
    }
    return [
        Panel(title, _curves(facts, series))
        for series, title in titles.items()
        if any(finite(getattr(curve, series)) for curve in facts.curves)
    ]


def dashes(facts: RunFacts) -> dict[tuple[Role, str], int]:
    """Which dash pattern each curve's name has: the first of a role is solid."""
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
                faint = len(seeds) > 1
                shown += line(ax, curve.epoch, scaled(curve, series, scale), role, dash, faint)
            if len(seeds) > 1 and all(curve.epoch == seeds[0].epoch for curve in seeds):
                columns = zip(*(scaled(curve, series, scale) for curve in seeds), strict=True)
                line(ax, seeds[0].epoch, [fmean(column) for column in columns], role, dash)
        limits(ax, shown, falling=series == "loss")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return svg()


def scaled(curve: Curve, series: Series, scale: float) -> list[float]:
    return [nan if value is None else scale * value for value in getattr(curve, series)]


def finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and isfinite(value)]


def line(ax: Axes, epochs: list[float], values: list[float], role: Role, dash: int, faint: bool = False) -> list[float]:
    """Draw one curve, past its gaps, and return what it shows after the first tenth of training."""
    points = [(x, y) for x, y in zip(epochs, values, strict=True) if isfinite(y)]
    if not points:
        return []
    step = ceil(len(points) / _POINTS)
    x, y = zip(*points[::-step][::-1], strict=True)  # from the end: the last epoch is always there
    style: Any = "-" if not DASHES[dash] else (0, tuple(float(part) for part in DASHES[dash].split()))
    ax.plot(
        x,
        y,
        color=COLOURS[role],
        linestyle=style,
        linewidth=0.9 if faint else 2,
        alpha=0.4 if faint else 1,
        marker="o" if len(x) == 1 else None,
    )
    return list(y[len(y) // 10 :])


def limits(ax: Axes, shown: list[float], falling: bool) -> None:
    """Fit the axis to training after its first tenth, so that the start does not flatten all the rest."""
    if not shown or min(shown) == max(shown):
        return
    margin = 0.06 * (max(shown) - min(shown))
    low, high = min(shown) - margin, max(shown) + margin
    ax.set_ylim(max(0, low) if falling and min(shown) >= 0 else low, high if falling else min(high, 100.5))


@contextmanager
def panel(name: str, label: str, height: float) -> Iterator[tuple[Axes, Callable[[], Markup]]]:
    """Axes in the page's style, and a function that gives the finished SVG once they are drawn."""
    with drawing(name, label, (_WIDTH, height)) as (figure, svg):
        yield figure.subplots(), svg


@contextmanager
def drawing(name: str, label: str, size: tuple[float, float]) -> Iterator[tuple[Figure, Callable[[], Markup]]]:
    """The same of a whole figure, whose axes are for the caller to make; its size is in inches."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        drawn: list[Markup] = []
        yield figure, lambda: drawn[0]
        buffer = io.StringIO()
        unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=unsaid)
        drawn.append(_inline(buffer.getvalue(), name, label))


def _inline(svg: str, name: str, label: str) -> Markup:
    """An SVG that lives in HTML: no prolog, the page's fonts and colours, ids of its own, no fixed size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| version="1.1"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*;?|font: ([\d.]+px) [^;\"]*", _font, svg)
    referenced = set(re.findall(r"[\"(]#([\w.-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda m: m[0] if m[1] in referenced else "", svg)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"\s*\n\s*", " ", svg).strip()
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def _font(found: re.Match[str]) -> str:
    """Matplotlib writes its family apart or, in older versions, in the shorthand; only the size is kept."""
    return f"font-size: {found[1]}" if found[1] else ""
