"""The comparison of several methods: a line for each measure, the front of accuracy and cost, bars and costs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from understudy.reporting.contrast import Contrast, contrasts, reference
from understudy.reporting.facts import Row, RunFacts
from understudy.reporting.summary import Cell, Line, columns, lines
from understudy.reporting.wording import moment, signed

VERSUS = "vs "
_FIRST = ("Accuracy", "Errors")  # beside these stand the difference and the cost: a phone shows four columns


def measures(facts: RunFacts) -> list[Line]:
    """What the table shows of each of `columns(facts)`; the methods' own measures among those of any run."""
    shown = [line for line in lines(facts) if line.group != "cost"]
    own = [line for line in (*_differences(facts), _training(facts)) if line]
    first = [line for line in shown if line.label in _FIRST]
    return first + own + [line for line in shown if line not in first]


def costs(facts: RunFacts) -> tuple[list[Row], list[Line]]:
    """What the networks cost to use: the teacher's column, and one for all students that are of one size."""
    kept: dict[tuple[object, ...], Row] = {}
    for row in columns(facts):
        kept.setdefault((row.role == "teacher", row.model, row.parameters, row.flops, row.bytes), row)
    few = facts.model_copy(update={"rows": [*kept.values()]})
    return columns(few), [line for line in lines(few) if line.group == "cost"]


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
    return Cell(p_value(found.adjusted), exact=f"{found.p:.2g} before the adjustment")


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


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
        shared = "for all" if row.role == "teacher" else "" if sd is None else f"± {show(sd)}"
        cells.append(Cell() if mean is None else Cell(show(mean), shared))
    return Line("Training", f"{unit}/image", "cost", tuple(cells))


@dataclass(frozen=True, slots=True)
class Point:
    """A way to train the student: what it takes and what it gives."""

    row: Row
    cost: float  # of training, ms an image
    accuracy: float  # %
    sd: float | None
    front: bool  # no other is both as cheap and as accurate, and better in one


def points(facts: RunFacts) -> list[Point]:
    """The student alone and the methods, where at least two have a cost; over the seeds' means."""
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
    """What the plot shows, which rows are on its front, and what their cost leaves out."""
    found = points(facts)
    if not found:
        return ""
    names = [point.row.name for point in sorted(found, key=lambda point: point.cost) if point.front]
    bars = ", bars one sd over seeds" if any(point.sd is not None for point in found) else ""
    teacher = facts.teacher.mean("train_ms") if facts.teacher else None
    shared = "" if teacher is None else (
        f" The teacher's pass, {moment(teacher)} an image, is paid once for all of them and not in it:"
        " a student that is distilled by itself pays it whole."
    )  # fmt: skip
    return (
        f"Means{bars}. Filled: on the front, with no other both cheaper and more accurate ({', '.join(names)});"
        " where bars overlap, other seeds could change it. The cost is the time of a student's own forward and backward"
        f" pass and update.{shared}"
    )
