"""The comparison of several methods: its measures, the Pareto front of accuracy and training cost, inference costs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from understudy.evaluation.facts import Row, RunFacts
from understudy.reporting.contrast import Contrast, contrasts, reference
from understudy.reporting.summary import Cell, Line, columns, lines
from understudy.reporting.wording import moment, p_value, signed

VERSUS = "vs "
_FIRST = ("Accuracy", "Errors")  # followed by the difference and the cost, as a phone shows four columns


def measures(facts: RunFacts) -> list[Line]:
    """The measures of each of `columns(facts)`: those of any run, and those of a comparison."""
    shown = [line for line in lines(facts) if line.group != "cost"]
    own = [line for line in (*_differences(facts), _training(facts)) if line]
    first = [line for line in shown if line.label in _FIRST]
    return first + own + [line for line in shown if line not in first]


def costs(facts: RunFacts) -> tuple[list[Row], list[Line]]:
    """Inference costs: one row for the teacher, and one for all students of the same size."""
    kept: dict[tuple[object, ...], Row] = {}
    for row in columns(facts):
        kept.setdefault((row.role == "teacher", row.model, row.parameters, row.flops, row.bytes), row)
    distinct = facts.model_copy(update={"rows": [*kept.values()]})
    return columns(distinct), [line for line in lines(distinct) if line.group == "cost"]


def _differences(facts: RunFacts) -> list[Line]:
    of, found = reference(facts), {id(one.row): one for one in contrasts(facts)}
    if of is None:
        return []
    rows = columns(facts)
    whole = all(one.mean.is_integer() for one in found.values())
    cells = [Cell(spread="reference") if row is of else _difference(found.get(id(row)), whole) for row in rows]
    made = [Line(f"{VERSUS}{'alone' if of.role == 'alone' else of.name}", "errors", "gain", tuple(cells))]
    if any(one.adjusted is not None for one in found.values()):
        made.append(Line("p", "adjusted", "gain", tuple(_p(found.get(id(row))) for row in rows)))
    return made


def _difference(found: Contrast | None, whole: bool) -> Cell:
    if found is None:
        return Cell()
    spread = f"{signed(found.interval[0])} to {signed(found.interval[1])}" if found.interval else ""
    return Cell(signed(found.mean, fixed=not whole), spread)


def _p(found: Contrast | None) -> Cell:
    if found is None or found.p is None or found.adjusted is None:
        return Cell()
    return Cell(p_value(found.adjusted), exact=f"{found.p:.2g} before adjustment")


def _training(facts: RunFacts) -> Line | None:
    rows = columns(facts)
    highest = max((value for row in rows for value in row.values("train_ms")), default=None)
    if highest is None:
        return None
    unit, scale = ("µs", 1000) if highest < 1 else ("ms", 1)

    def show(ms: float) -> str:
        return f"{scale * ms:.1f}" if scale * highest < 100 else f"{scale * ms:.0f}"

    cells = []
    for row in rows:
        mean, sd = row.mean("train_ms"), row.sd("train_ms")
        shared = "shared" if row.role == "teacher" else "" if sd is None else f"± {show(sd)}"
        cells.append(Cell() if mean is None else Cell(show(mean), shared))
    return Line("Training", f"{unit}/image", "cost", tuple(cells))


@dataclass(frozen=True, slots=True)
class Point:
    """The training cost and accuracy of a method."""

    row: Row
    cost: float  # training time in ms per image
    accuracy: float  # %
    sd: float | None
    front: bool  # on the Pareto front


def points(facts: RunFacts) -> list[Point]:
    """The student alone and the methods, as means over seeds; empty if fewer than two have a cost."""
    rows = [row for row in facts.of("alone", "distilled") if row.values("train_ms")]
    if len(rows) < 2:
        return []
    of = {id(row): (fmean(row.values("train_ms")), 100 * fmean(row.values("accuracy"))) for row in rows}

    def beaten(cost: float, accuracy: float) -> bool:
        return any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in of.values())

    made = []
    for row in rows:
        sd = row.sd("accuracy")
        made.append(Point(row, *of[id(row)], None if sd is None else 100 * sd, not beaten(*of[id(row)])))
    return made


def front_note(facts: RunFacts) -> str:
    """The note below the plot."""
    found = points(facts)
    if not found:
        return ""
    names = [point.row.name for point in sorted(found, key=lambda point: point.cost) if point.front]
    bars = ", with bars of one sd over seeds" if any(point.sd is not None for point in found) else ""
    teacher = facts.teacher.mean("train_ms") if facts.teacher else None
    shared = "" if teacher is None else (
        f" It leaves out the teacher's forward pass, {moment(teacher)} per image, which all methods of this run share."
    )  # fmt: skip
    return (
        f"Means{bars}. Filled: on the Pareto front ({', '.join(names)}), which other seeds may change if bars overlap."
        f" The cost is the time of a student's forward and backward pass and update.{shared}"
    )
