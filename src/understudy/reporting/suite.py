"""One backbone on many tasks: a line a task in its group, means of the groups and of all, as a table and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from understudy import __version__
from understudy.reporting.draws import Drawn
from understudy.reporting.page import command_line, environment
from understudy.reporting.wording import MISSING

GROUPS = ("natural", "specialised", "structured", "")


@dataclass(frozen=True)
class TaskRow:
    """What one task came to.

    Attributes:
        name: of the task.
        group: of VTAB; empty where it is none of VTAB's.
        classes: how many.
        tested: examples of the test part.
        results: one for each number of shots, or one alone; none where the task failed or was not reached.
        reason: why it failed, in a sentence.
    """

    name: str
    group: str = ""
    classes: int = 0
    tested: int = 0
    results: tuple[Drawn, ...] = ()
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "name"}

    @classmethod
    def from_json(cls, name: str, values: dict[str, Any]) -> TaskRow:
        found = values.get("results", ())
        results = tuple(Drawn(one["shots"], one["examples"], tuple(one["accuracies"])) for one in found)
        plain: dict[str, Any] = {key: value for key, value in values.items() if key != "results"}
        return cls(name, **plain, results=results)


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        kind: a group's name, a task, or a mean.
        label: its first cell.
        cells: the others: classes, examples and, for each number of shots, the accuracy and its spread.
        reason: why there are none.
    """

    kind: Literal["group", "task", "mean"]
    label: str
    cells: tuple[tuple[str, str], ...] = ()
    reason: str = ""


def heads(rows: Sequence[TaskRow]) -> tuple[str, ...]:
    shots = next((row.results for row in rows if row.results), ())
    examples = ("examples",) if len(shots) < 2 else ()  # of several numbers of shots it would be each one's own
    return ("classes", *examples, *(f"{one.shots:,}-shot" if one.shots else "accuracy" for one in shots))


def lines(rows: Sequence[TaskRow]) -> list[Line]:
    """The table's lines: groups with their tasks and means, where a task is VTAB's; the mean of all tasks last.

    A task counts once in the mean of all, whatever its group has, as in the paper; one without a result does not.
    """
    found: list[Line] = []
    grouped = any(row.group for row in rows)
    width = len(next((row.results for row in rows if row.results), ()))
    for group in GROUPS:
        own = [row for row in rows if row.group == group]
        if own and grouped:
            found.append(Line("group", group or "others"))
        found += [_task(row, width) for row in own]
        if own and grouped:
            found += _mean(f"mean of {group or 'others'}", own, width)
    return found + _mean("mean of all", rows, width)


def _task(row: TaskRow, width: int) -> Line:
    if not row.results:
        missing = ((MISSING, ""),) * (1 + (width < 2) + width)
        return Line("task", row.name, missing, row.reason or "not done yet")
    counts = [row.classes, row.results[0].examples] if width < 2 else [row.classes]
    return Line("task", row.name, (*((f"{n:,}", "") for n in counts), *map(_accuracy, row.results)))


def _accuracy(one: Drawn) -> tuple[str, str]:
    """The median in percent, and the worst and the best where there are several."""
    spread = f"{100 * min(one.accuracies):.2f} to {100 * max(one.accuracies):.2f}" if len(one.accuracies) > 1 else ""
    return f"{100 * (one.median or 0.0):.2f}", spread


def _mean(label: str, rows: Sequence[TaskRow], width: int) -> list[Line]:
    done = [row for row in rows if row.results]
    if not done:
        return []
    of = f"{len(done)} of {len(rows)}" if len(done) < len(rows) else f"{len(rows)}"
    blank = (("", ""),) * (1 + (width < 2))
    means = [fmean(row.results[at].median or 0.0 for row in done) for at in range(width)]
    return [Line("mean", f"{label} ({of})", (*blank, *((f"{100 * mean:.2f}", "") for mean in means)))]


def suite_table(backbone: str, rows: Sequence[TaskRow]) -> Table:
    """The table for a terminal; what failed says why below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.caption, table.caption_justify = Text(f"{backbone}: test accuracy, %"), "left"
    table.add_column("task", no_wrap=True)
    for head in heads(rows):
        table.add_column(head, justify="right", no_wrap=True)
    for line in lines(rows):
        style = {"group": "dim", "mean": "bold", "task": ""}[line.kind]
        cells = (Text(f"{main} ({spread})" if spread else main) for main, spread in line.cells)
        table.add_row(Text(line.label), *cells, style=style)
    return table


def render_suite(name: str, backbone: str, rows: Sequence[TaskRow], vtab: bool, command: Sequence[str]) -> str:
    """The whole page as one string of HTML."""
    results = [one for row in rows for one in row.results]
    template = environment().get_template("suite.html.j2")
    return template.render(
        name=name, backbone=backbone, lines=lines(rows), heads=heads(rows), failed=[r for r in rows if r.reason],
        tasks=len(rows), done=sum(bool(row.results) for row in rows), shots=any(one.shots for one in results),
        spread=any(len(one.accuracies) > 1 for one in results), grouped=any(row.group for row in rows), vtab=vtab,
        places={row.name for row in rows if row.results}, version=__version__,
        command=command_line(command) if command else "",
    )  # fmt: skip
