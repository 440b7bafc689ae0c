"""The page of a suite: one backbone on many tasks, with means over groups and over all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from markupsafe import Markup
from rich.text import Text

from understudy.evaluation.facts import ShotResult, SuiteFacts, TaskResult
from understudy.reporting.figures import COLORS, Panel, height_of, panel, rows_axis
from understudy.reporting.table import Renderables, left, right, table
from understudy.reporting.template import fill
from understudy.reporting.wording import MISSING, plural

_GROUPS = ("natural", "specialized", "structured", "")


@dataclass(frozen=True)
class Line:
    """A line of the table: the heading of a group, a task, or a mean."""

    kind: Literal["group", "task", "mean"]
    label: str
    cells: tuple[tuple[str, str], ...] = ()  # classes, examples and, per number of shots, the accuracy and its spread


def render(facts: SuiteFacts, folder: Path) -> str:
    """The page as one string of HTML."""
    tasks = facts.tasks
    results = [result for task in tasks for result in task.results]
    return fill(
        "suite", facts.name, f"one backbone, {plural(len(tasks), 'task')}", facts.command,
        [facts.backbone, *(["VTAB-1k"] if facts.vtab else [])],
        lines=lines(tasks), heads=_heads(tasks), failed=facts.failed, tasks=len(tasks),
        done={task.name for task in tasks if task.results}, shots=any(result.shots for result in results),
        spread=any(len(result.accuracies) > 1 for result in results), grouped=any(task.group for task in tasks),
        vtab=facts.vtab, pictures=pictures(tasks), dots=[task.name for task in _dots(tasks)],
    )  # fmt: skip


def pictures(tasks: Sequence[TaskResult]) -> list[Panel]:
    """The tasks as dots, in their order; nothing for fewer than two."""
    dots = _dots(tasks)
    return [Panel("Accuracy of each task, %", _picture(dots))] if len(dots) > 1 else []


def _dots(tasks: Sequence[TaskResult]) -> list[TaskResult]:
    """The tasks that were scored."""
    return [task for task in tasks if task.results and task.results[-1].accuracies]


def _picture(tasks: Sequence[TaskResult]) -> Markup:
    """A row for each task by its number, with a dot for each draw or seed of the most shots."""
    color, rows = COLORS["distilled"], range(len(tasks))
    with panel("tasks", "Test accuracy of each task", height_of(len(tasks))) as (ax, svg):
        for row, task in zip(rows, tasks, strict=True):
            values = [100 * x for x in task.results[-1].accuracies]
            ax.hlines(row, min(values), max(values), color=color, linewidth=1.6, alpha=0.45)
            ax.plot(values, [row] * len(values), "o", color=color, markersize=6, alpha=0.45, mew=0)
        ax.plot([100 * (task.results[-1].median or 0.0) for task in tasks], rows, "D", color=color, markersize=7.5)
        rows_axis(ax, [str(row + 1) for row in rows], 0.08)
    return svg()


def console(facts: SuiteFacts) -> Renderables:
    """The table of the page, and why tasks failed."""
    caption = f"{facts.backbone}: test accuracy, %"
    made = table(left("task"), *map(right, _heads(facts.tasks)), caption=caption)
    for line in lines(facts.tasks):
        style = {"group": "dim", "mean": "bold", "task": ""}[line.kind]
        cells = (Text(main + f" ({spread})" * bool(spread)) for main, spread in line.cells)
        made.add_row(Text(line.label), *cells, style=style)
    return [made, *(Text(f"{name} failed: {reason}", "yellow") for name, reason in facts.failed.items())]


def lines(tasks: Sequence[TaskResult]) -> list[Line]:
    """The lines of the table: VTAB's groups with their tasks and means, other tasks, and the mean of all tasks.

    Every task with a result has the same weight in the mean of all, as in Zhai et al. (2019).
    """
    found: list[Line] = []
    grouped = any(task.group for task in tasks)
    width = len(_shots(tasks))
    for group in _GROUPS:
        members = [task for task in tasks if task.group == group]
        if members and grouped:
            found.append(Line("group", group or "others"))
        found += [_task(task, width) for task in members]
        if members and grouped:
            found += _mean(f"mean of {group or 'others'}", members, width)
    return found + _mean("mean of all", tasks, width)


def _shots(tasks: Sequence[TaskResult]) -> Sequence[ShotResult]:
    return next((task.results for task in tasks if task.results), ())


def _heads(tasks: Sequence[TaskResult]) -> tuple[str, ...]:
    shots = _shots(tasks)
    examples = ("examples",) if len(shots) < 2 else ()  # they differ between numbers of shots
    return ("classes", *examples, *(f"{result.shots:,}-shot" if result.shots else "accuracy" for result in shots))


def _task(task: TaskResult, width: int) -> Line:
    if not task.results:
        return Line("task", task.name, ((MISSING, ""),) * (1 + (width < 2) + width))
    counts = [task.classes, task.results[0].examples] if width < 2 else [task.classes]
    return Line("task", task.name, (*((f"{n:,}", "") for n in counts), *map(_accuracy, task.results)))


def _accuracy(result: ShotResult) -> tuple[str, str]:
    """The median in percent and, of several accuracies, the lowest and the highest."""
    bounds = result.spread if result.spread and len(result.accuracies) > 1 else ()
    return f"{100 * (result.median or 0.0):.2f}", " to ".join(f"{100 * bound:.2f}" for bound in bounds)


def _mean(label: str, tasks: Sequence[TaskResult], width: int) -> list[Line]:
    done = [task for task in tasks if task.results]
    if not done:
        return []
    of = f"{len(done)} of {len(tasks)}" if len(done) < len(tasks) else f"{len(tasks)}"
    blank = (("", ""),) * (1 + (width < 2))
    means = [fmean(task.results[at].median or 0.0 for task in done) for at in range(width)]
    return [Line("mean", f"{label} ({of})", (*blank, *((f"{100 * mean:.2f}", "") for mean in means)))]
