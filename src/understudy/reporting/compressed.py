"""A compression: teacher, student and its files side by side, as a table and as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from understudy import __version__
from understudy.reporting.facts import Row, RunFacts
from understudy.reporting.page import bars_of, command_line, environment
from understudy.reporting.wording import MISSING, compact, moment, percent, ratio

HEADS = ("", "accuracy", "size", "parameters", "FLOPs", "latency")
_NAMES = {
    "teacher": "teacher",
    "alone": "student alone",
    "distilled": "student distilled",
}


@dataclass(frozen=True)
class Foreseen:
    """What a longer schedule of the student would likely bring: a power law through two schedules' errors.

    Attributes:
        pilot_steps, steps: of the short schedule and of the whole one.
        pilot_error, error: shares of the test part that the student of each gets wrong.
    """

    pilot_steps: int
    steps: int
    pilot_error: float
    error: float

    def at(self, times: float) -> float:
        """The error of a schedule so many times as long as the whole one."""
        if not 0 < self.error < self.pilot_error:
            return self.error
        slope = math.log(self.pilot_error / self.error) / math.log(self.steps / self.pilot_steps)
        return self.error * times**-slope

    @property
    def sentence(self) -> str:
        """For the page and the terminal."""
        short = f"On {self.pilot_steps:,} steps the student reaches {percent(1 - self.pilot_error, 1)}"
        whole = f"on {self.steps:,} {percent(1 - self.error, 1)}"
        if self.pilot_steps >= self.steps or not self.error < self.pilot_error:
            return f"{short} already, {whole}: more time would likely buy nothing."
        return (
            f"{short}, {whole}. By that slope, of one seed each, twice the time "
            f"would likely bring {percent(1 - self.at(2), 1)}, and four times {percent(1 - self.at(4), 1)}."
        )


@dataclass(frozen=True)
class Line:
    """One model or file of the table.

    Attributes:
        role: of a network, as `Row.role`; "file" for a file.
        cells: accuracy, size, parameters, FLOPs, latency.
        beside: each but the first as a share of the teacher's; "" for the teacher and where there is none.
    """

    name: str
    model: str
    role: str
    cells: tuple[str, ...]
    beside: tuple[str, ...]


def lines(rows: Sequence[Row], latency_ms: Mapping[str, float], exported: Mapping[str, Any]) -> list[Line]:
    """The networks in torch, then the files that the distilled one was exported to."""
    teacher = next(row for row in rows if row.role == "teacher")
    costs = [teacher.bytes, teacher.parameters, teacher.flops, latency_ms["teacher"]]

    def line(name: str, model: str, role: str, accuracy: float | None, own: Sequence[float | None]) -> Line:
        units = (lambda x: compact(x, "B"), compact, compact, moment)
        cells = [MISSING if x is None else shown(x) for shown, x in zip(units, own, strict=True)]
        shares = [
            "" if x is None or not of or role == "teacher" else ratio(x, of) for x, of in zip(own, costs, strict=True)
        ]
        return Line(name, model, role, (MISSING if accuracy is None else percent(accuracy, 2), *cells), ("", *shares))

    found = []
    for row in rows:
        quick = latency_ms["teacher"] if row.role == "teacher" else latency_ms["student"]
        own = [row.bytes, row.parameters, row.flops, quick]
        found.append(line(_NAMES[row.role], row.model, row.role, row.mean("accuracy"), own))
    for file in exported["files"]:
        own = [file["bytes"], None, None, file["latency_ms"]]
        found.append(line(file["file"], "", "file", file["accuracy"], own))
    return found


def sentence(rows: Sequence[Row], exported: Mapping[str, Any]) -> str:
    """What came of it, in one sentence."""
    teacher, student = (next(row for row in rows if row.role == role) for role in ("teacher", "distilled"))
    alone = next((row for row in rows if row.role == "alone"), None)
    smallest = min(exported["files"], key=lambda file: file["bytes"])
    said = (
        f"{student.model} is right on {percent(student.mean('accuracy') or 0, 1)} of the test images where its teacher "
        f"is on {percent(teacher.mean('accuracy') or 0, 1)}"
    )
    if alone is not None:
        said += f", and alone it would be on {percent(alone.mean('accuracy') or 0, 1)}"
    share = f", {ratio(smallest['bytes'], teacher.bytes)} of the teacher's size" if teacher.bytes else ""
    arithmetic = ""
    if student.flops and teacher.flops:
        arithmetic = f" and {ratio(student.flops, teacher.flops)} of its arithmetic"
    return f"{said}. As a file it has {compact(smallest['bytes'], 'B')}{share}{arithmetic}."


def cautions(rows: Sequence[Row]) -> list[str]:
    """What stands in the way of a good student, in sentences."""
    found = {row.role: row.mean("accuracy") or 0.0 for row in rows}
    if found.get("alone", 0.0) > found["teacher"]:
        return [
            "The student alone is right more often than its teacher, so there was nothing to learn from it. Give a "
            "backbone that was pre-trained on more, or its transfer more time."
        ]
    return []


def compressed_table(found: Sequence[Line]) -> Table:
    """A line each; costs with their share of the teacher's."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.caption, table.caption_justify = Text("latency: one image on one thread; shares are of the teacher's"), "left"
    for head in HEADS:
        table.add_column(head, justify="right" if head else "left", no_wrap=bool(head))
    styles = {"distilled": "cyan", "file": "cyan", "alone": "default"}
    for line in found:
        cells = [
            Text(cell).append(f" {share}" if share else "", style="dim")
            for cell, share in zip(line.cells, line.beside, strict=True)
        ]
        table.add_row(Text(line.name), *cells, style=styles.get(line.role, "default"))
    return table


def render_compressed(
    name: str,
    facts: RunFacts,
    rows: Sequence[Row],
    latency_ms: Mapping[str, float],
    exported: Mapping[str, Any],
    seconds: Mapping[str, float],
    foreseen: Foreseen | None,
    told: Sequence[str],
    command: Sequence[str],
) -> str:
    """The whole page as one string of HTML; the stages' own pages are linked to, beside it.

    Args:
        facts: of the student's run.
        seconds: of training, by stage.
    """
    template = environment().get_template("compressed.html.j2")
    return template.render(
        name=name, facts=facts, sentence=sentence(rows, exported), heads=HEADS,
        cautions=[*facts.cautions, *cautions(rows)],
        lines=lines(rows, latency_ms, exported), bars=bars_of(rows),
        names=_NAMES, exported=exported, seconds=seconds, foreseen=foreseen, told=told, version=__version__,
        command=command_line(command) if command else "",
    )  # fmt: skip
