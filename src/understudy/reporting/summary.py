"""The side-by-side table of models as text, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from understudy.evaluation.facts import Metric, Role, Row, RunFacts
from understudy.reporting.gain import gain
from understudy.reporting.wording import MISSING, compact, count, gap_share, milliseconds, ratio

ORDER: tuple[Role, ...] = ("teacher", "alone", "distilled", "model", "member")
ROLE_NAMES: dict[Role, str] = {
    "teacher": "Teacher",
    "member": "Member",
    "alone": "Student alone",
    "distilled": "Distilled",
    "model": "Model",
}

Group = Literal["quality", "cost", "gain"]


def own_name(role: Role, name: str) -> str:
    """The name of a row; "" if it only repeats the role."""
    return "" if name.lower() in (role, ROLE_NAMES[role].lower()) else name


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text: the value, its spread over seeds or runs, and its ratio to the teacher's."""

    value: str = MISSING
    spread: str = ""
    share: str = ""
    exact: str = ""  # the full number, for a tooltip

    @property
    def aside(self) -> str:
        """The small text beside the value."""
        return " · ".join(part for part in (self.spread, self.share) if part)


@dataclass(frozen=True, slots=True)
class Line:
    label: str
    unit: str
    group: Group
    cells: tuple[Cell, ...]  # one per column


def columns(facts: RunFacts) -> list[Row]:
    """The rows in the order in which they are shown."""
    return facts.of(*ORDER)


def lines(facts: RunFacts) -> list[Line]:
    """All measures that at least one model has."""
    return [line for line in _lines(facts) if any(cell.value != MISSING for cell in line.cells)]


def _lines(facts: RunFacts) -> Iterator[Line]:
    rows = columns(facts)

    def scores(label: str, unit: str, metric: Metric, show: Callable[[float], str]) -> Line:
        return Line(label, unit, "quality", tuple(_score(row, metric, show) for row in rows))

    yield scores("Accuracy", "%", "accuracy", lambda x: f"{100 * x:.2f}")
    yield scores("Top 5", "%", "top5", lambda x: f"{100 * x:.2f}")
    whole = all(row.errors.is_integer() for row in rows)
    of = f"of {facts.data.examples:,}" if facts.data else ""
    yield scores("Errors", of, "errors", lambda x: count(x, fixed=not whole))
    yield scores("Agreement", "%", "agreement", lambda x: f"{100 * x:.2f}")
    yield scores("Correlation Δ", "", "correlation_difference", lambda x: f"{x:.4f}")
    yield scores("CKA", "", "cka", lambda x: f"{x:.3f}")
    yield scores("NLL", "nats", "nll", lambda x: f"{x:.3f}")
    yield scores("ECE", "%", "ece", lambda x: f"{100 * x:.2f}")
    yield scores("Brier", "", "brier", lambda x: f"{x:.4f}")

    def costs(label: str, cost: Callable[[Row], int | None], unit: str = "") -> Line:
        reference = cost(facts.teacher) if facts.teacher else None
        return Line(label, "", "cost", tuple(_size(row, cost(row), reference, unit) for row in rows))

    yield costs("Parameters", lambda row: row.parameters)
    yield costs("FLOPs", lambda row: row.flops)
    yield costs("File size", lambda row: row.bytes, "B")
    yield Line("Latency", "ms, batch 1", "cost", tuple(_latency(facts, row) for row in rows))
    yield Line("Gap closed", "", "gain", tuple(_gap(facts, row) for row in rows))


def _score(row: Row, metric: Metric, show: Callable[[float], str]) -> Cell:
    mean, sd = row.mean(metric), row.sd(metric)
    if mean is None or not isfinite(mean):
        return Cell()
    return Cell(show(mean), f"± {show(sd)}" if sd is not None else "")


def _size(row: Row, value: int | None, reference: int | None, unit: str) -> Cell:
    if value is None:
        return Cell()
    return Cell(compact(value, unit), share=_share(row, value, reference), exact=f"{value:,}")


def _latency(facts: RunFacts, row: Row) -> Cell:
    if row.latency_ms is None:
        return Cell()
    spread = "" if row.latency_spread_ms is None else f"± {milliseconds(row.latency_spread_ms)}"
    reference = facts.teacher.latency_ms if facts.teacher else None
    return Cell(milliseconds(row.latency_ms), spread, _share(row, row.latency_ms, reference))


def _share(row: Row, value: float, reference: float | None) -> str:
    return ratio(value, reference) if reference and row.role != "teacher" else ""


def _gap(facts: RunFacts, row: Row) -> Cell:
    found = gain(facts, row) if row.role == "distilled" else None
    return Cell() if found is None or found.gap_closed is None else Cell(gap_share(found.gap_closed))
