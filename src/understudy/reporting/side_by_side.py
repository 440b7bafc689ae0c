"""Backbones side by side: few-shot transfers of the same data, and suites with the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from string import ascii_lowercase

from markupsafe import Markup
from matplotlib.axes import Axes

from understudy.evaluation.facts import FewShotFacts, ShotResult, SuiteFacts
from understudy.reporting.figures import COLORS, INK, Panel, panel, rows_axis, shots_axis
from understudy.reporting.wording import MISSING

_LINES = (COLORS["distilled"], COLORS["alone"], COLORS["teacher"])
_MARKERS = ("D", "o", "s", "^", "v")
_ROW = 0.2  # inches of a backbone in the picture of suites


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs beside each other.

    Attributes:
        title: what they have in common.
        heads, rows: a table, its first column names; accuracies in percent.
        names: those of the numbers in the picture, from 1.
    """

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    names: list[str]
    picture: Panel


def of_few_shots(found: Sequence[FewShotFacts]) -> list[Comparison]:
    """One for each data set that several few-shot transfers with a test part are of."""
    scored = [one for one in found if any(result.accuracies for result in one.results)]
    by_data = {data: [one for one in scored if one.data == data] for data in dict.fromkeys(one.data for one in scored)}
    return [_few_shots(data, several) for data, several in by_data.items() if len(several) > 1]


def _few_shots(data: str, several: Sequence[FewShotFacts]) -> Comparison:
    counts = sorted({result.shots for one in several for result in one.results})
    rows: list[tuple[str, ...]] = []
    for number, one in enumerate(several, 1):
        by_count = {result.shots: result for result in one.results}
        rows.append((f"{number} {_name(one)}", *(_percent(by_count.get(count)) for count in counts)))
    title = f"{data}, from few examples of each class"
    picture = Panel("Accuracy, %, against examples per class", _curves(several))
    heads = ("backbone", *(f"{count:,}-shot" for count in counts))
    return Comparison(title, heads, rows, [_name(one) for one in several], picture)


def _curves(several: Sequence[FewShotFacts]) -> Markup:
    shots = sorted({result.shots for one in several for result in one.results})
    with panel("few-shots", "Test accuracy against examples per class, medians and spreads", 3.2) as (ax, svg):
        for at, one in enumerate(several):
            color, marker = _LINES[at % len(_LINES)], _MARKERS[at % len(_MARKERS)]
            shown = sorted((result for result in one.results if result.accuracies), key=lambda result: result.shots)
            for result in shown:
                low, high = result.spread or (0.0, 0.0)
                ax.vlines(result.shots, 100 * low, 100 * high, color=color, linewidth=1.6, alpha=0.45)
            medians = [100 * (result.median or 0.0) for result in shown]
            ax.plot([result.shots for result in shown], medians, f"-{marker}", color=color, markersize=7, linewidth=2)
            _number(ax, at, shown[-1].shots, medians[-1])
        shots_axis(ax, shots, 0.1)
    return svg()


def of_suites(found: Sequence[SuiteFacts]) -> list[Comparison]:
    """The suites that have tasks in common with others, on these tasks; nothing where there are none."""
    by_task: dict[str, list[int]] = {}
    for at, one in enumerate(found):
        for task in one.tasks:
            if task.results and task.results[-1].accuracies:
                by_task.setdefault(task.name, []).append(at)
    tasks = [task for task, of in by_task.items() if len(of) > 1]
    several = [one for at, one in enumerate(found) if any(at in by_task[task] for task in tasks)]
    if not tasks:
        return []
    results = [{task.name: task.results[-1] for task in one.tasks if task.results} for one in several]
    heads = ("task", *(f"{number}" for number in range(1, len(several) + 1)))
    rows = [(f"{_letter(row)} {task}", *(_percent(of.get(task)) for of in results)) for row, task in enumerate(tasks)]
    common = [task for task in tasks if all(task in of for of in results)]
    if len(common) > 1:
        means = [fmean(of[task].median or 0.0 for task in common) for of in results]
        rows.append((f"mean of {len(common)}", *(f"{100 * mean:.2f}" for mean in means)))
    picture = Panel("Accuracy of each task, %", _dots(tasks, results))
    names = [_name(one) for one in several]
    return [Comparison("The same tasks", heads, rows, names, picture)]


def _dots(tasks: Sequence[str], results: Sequence[dict[str, ShotResult]]) -> Markup:
    """A row for each task by its letter, in it a line for each suite."""
    step = 0.8 / len(results)
    height = 0.85 + max(0.34, _ROW * len(results)) * len(tasks)
    with panel("suites", "Test accuracy of each task, by suite", height) as (ax, svg):
        for row, task in enumerate(tasks):
            for at, of in enumerate(results):
                if (result := of.get(task)) is None or not result.accuracies:
                    continue
                color, marker = _LINES[at % len(_LINES)], _MARKERS[at % len(_MARKERS)]
                y, values = row + (at - (len(results) - 1) / 2) * step, [100 * x for x in result.accuracies]
                ax.hlines(y, min(values), max(values), color=color, linewidth=1.6, alpha=0.45)
                ax.plot([100 * (result.median or 0.0)], [y], marker, color=color, markersize=6.5)
                _number(ax, at, max(values), y)
        rows_axis(ax, [_letter(row) for row in range(len(tasks))], 0.1)
    return svg()


def _letter(row: int) -> str:
    return ascii_lowercase[row % 26]


def _number(ax: Axes, at: int, x: float, y: float) -> None:
    """Names stay in the HTML, where they are escaped."""
    ax.annotate(str(at + 1), (x, y), (9, 0), textcoords="offset points", va="center", fontsize=9, color=INK)


def _name(one: FewShotFacts | SuiteFacts) -> str:
    return f"{one.backbone} ({one.name})"


def _percent(result: ShotResult | None) -> str:
    return MISSING if result is None or result.median is None else f"{100 * result.median:.2f}"
