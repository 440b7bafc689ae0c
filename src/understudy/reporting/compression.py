"""The page of a compression: the teacher, the student and its files side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from understudy.evaluation.facts import CompressionFacts, Row, ScalingForecast
from understudy.reporting.bars import bars_of
from understudy.reporting.table import Renderables, aside, left, right, table
from understudy.reporting.template import fill
from understudy.reporting.wording import MISSING, compact, moment, percent, ratio

_HEADS = ("", "accuracy", "size", "parameters", "FLOPs", "latency")
_NAMES = {"teacher": "teacher", "alone": "student alone", "distilled": "student distilled"}


@dataclass(frozen=True)
class Line:
    """One network or file."""

    name: str
    model: str
    role: str  # as `Row.role`, or "file"
    cells: tuple[str, ...]  # of `_HEADS`
    ratios: tuple[str, ...]  # to the teacher's cells; "" for the accuracy, the teacher and missing values


def render(facts: CompressionFacts, folder: Path) -> str:
    """The page as one string of HTML, with links to the pages of the stages."""
    run = facts.run
    return fill(
        "compression", facts.name, "compression", facts.command, [run.data.name] if run.data else [],
        created=run.created, seconds=sum(facts.seconds.values()) + facts.answer_seconds, hardware=run.hardware,
        facts=facts, sentence=_sentence(facts), forecast=facts.forecast and forecast_sentence(facts.forecast),
        cautions=[*run.cautions, *cautions(facts.rows)], heads=_HEADS, lines=_lines(facts), bars=bars_of(facts.rows),
        names=_NAMES,
    )  # fmt: skip


def console(facts: CompressionFacts) -> Renderables:
    """The table of networks and files, the forecast and the cautions."""
    caption = "latency: one image on one thread; percentages beside values are of the teacher's"
    made = table(left(), *map(right, _HEADS[1:]), caption=caption)
    for line in _lines(facts):
        cells = map(aside, line.cells, line.ratios)
        made.add_row(Text(line.name), *cells, style="cyan" if line.role in ("distilled", "file") else "")
    forecast = [Text(forecast_sentence(facts.forecast))] if facts.forecast else []
    return [made, *forecast, *(Text(caution, "yellow") for caution in cautions(facts.rows))]


def forecast_sentence(forecast: ScalingForecast) -> str:
    """What a longer schedule can be expected to bring."""
    pilot, full = (percent(1 - error, 1) for error in (forecast.pilot_error, forecast.error))
    reached = f"The student reaches {pilot} after {forecast.pilot_steps:,} steps and {full} after {forecast.steps:,}"
    if not forecast.improves:
        return f"{reached}, so a longer schedule is not expected to help."
    return (
        f"{reached}. Extrapolating this power law, fitted to one seed of each schedule, gives "
        f"{percent(1 - forecast.at(2), 1)} for twice the steps and {percent(1 - forecast.at(4), 1)} for four times."
    )


def cautions(rows: Sequence[Row]) -> list[str]:
    """Reasons to doubt the student, in sentences."""
    accuracy = {row.role: row.mean("accuracy") or 0.0 for row in rows}
    if accuracy.get("alone", 0.0) <= accuracy["teacher"]:
        return []
    return [
        "The student alone is more accurate than its teacher, so distillation cannot be expected to help. Use a "
        "backbone pre-trained on more data, or train the teacher for longer."
    ]


def _lines(facts: CompressionFacts) -> list[Line]:
    """The networks in PyTorch, then the files of the distilled student."""
    teacher = next(row for row in facts.rows if row.role == "teacher")
    reference = [teacher.bytes, teacher.parameters, teacher.flops, facts.latency_ms["teacher"]]

    def line(name: str, model: str, role: str, accuracy: float | None, costs: Sequence[float | None]) -> Line:
        formats = (lambda x: compact(x, "B"), compact, compact, moment)
        cells = [MISSING if x is None else shown(x) for shown, x in zip(formats, costs, strict=True)]
        ratios = [
            "" if x is None or not of or role == "teacher" else ratio(x, of)
            for x, of in zip(costs, reference, strict=True)
        ]
        return Line(name, model, role, (MISSING if accuracy is None else percent(accuracy, 2), *cells), ("", *ratios))

    found = []
    for row in facts.rows:
        latency = facts.latency_ms["teacher" if row.role == "teacher" else "student"]
        costs = [row.bytes, row.parameters, row.flops, latency]
        found.append(line(_NAMES[row.role], row.model, row.role, row.mean("accuracy"), costs))
    for file in facts.export.files:
        found.append(line(file.file, "", "file", file.accuracy, [file.bytes, None, None, file.latency_ms]))
    return found


def _sentence(facts: CompressionFacts) -> str:
    """The outcome in two sentences."""
    rows = {row.role: row for row in facts.rows}
    teacher, student = rows["teacher"], rows["distilled"]
    smallest = min(facts.export.files, key=lambda file: file.bytes)

    def accuracy(row: Row) -> str:
        return percent(row.mean("accuracy") or 0, 1)

    alone = f" ({accuracy(rows['alone'])} when trained alone)" if "alone" in rows else ""
    size = f", {ratio(smallest.bytes, teacher.bytes)} of the teacher's size" if teacher.bytes else ""
    flops = f", and needs {ratio(student.flops, teacher.flops)} of its FLOPs" if student.flops and teacher.flops else ""
    return (
        f"{student.model} reaches a test accuracy of {accuracy(student)}{alone}, its teacher {accuracy(teacher)}. "
        f"The smallest file is {compact(smallest.bytes, 'B')}{size}{flops}."
    )
