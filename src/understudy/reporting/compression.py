"""The page of a compression: the verdict, the rivals, the candidates, and the files that are handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from understudy.evaluation.facts import CompressionFacts
from understudy.reporting.bars import bars_of
from understudy.reporting.candidates import ROLES, candidates, columns, grouped, limits_note, pictures
from understudy.reporting.details import details
from understudy.reporting.forecast import forecast_sentence
from understudy.reporting.rivals import Duel, duels
from understudy.reporting.table import Renderables, aside, left, right, sentences, table
from understudy.reporting.template import fill
from understudy.reporting.verdict import handed_over, verdict, warnings
from understudy.reporting.wording import MISSING, compact, moment, p_value, percent, ratio, signed

_HEADS = ("", "accuracy", "size", "parameters", "FLOPs", "latency")
_NAMES = {"teacher": "teacher", "alone": "student alone", "distilled": "student distilled"}
_RUNTIMES = {"onnx": "ONNX Runtime", "int8": "ONNX Runtime"}
_PYTORCH = "PyTorch"


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
        created=run.created, seconds=sum(facts.seconds.values()), hardware=run.hardware,
        facts=facts, headline=verdict(facts), handed_over=handed_over(facts), warnings=warnings(facts),
        cautions=run.cautions, forecast=facts.forecast and forecast_sentence(facts.forecast),
        heads=_HEADS, lines=_lines(facts), bars=bars_of(facts.rows), names=_NAMES, duels=duels(facts),
        candidates=grouped(candidates(facts)), candidate_heads=columns(facts), pictures=pictures(facts),
        limits=limits_note(facts), pages={name for name in facts.seconds if (folder / name / "report.html").exists()},
        candidate_roles=ROLES, p_value=p_value,
        **details(run, folder / facts.student),
    )  # fmt: skip


def console(facts: CompressionFacts) -> Renderables:
    """The verdict, the warnings, the tables of networks, rivals and candidates, the forecast, and the files."""
    found = verdict(facts)
    said = sentences(found)
    if handed_over(facts) != found.sentence:
        said.append(Text(handed_over(facts)))
    said += [Text(one.text, "bold red" if one.bad else "yellow") for one in warnings(facts)]
    said += [Text(caution, "yellow") for caution in facts.run.cautions]
    if facts.teacher_kept:
        said.append(Text(facts.teacher_kept))
    caption = "latency: one image on one thread; percentages beside values are of the teacher's, in the same runtime"
    made = table(left(), *map(right, _HEADS[1:]), caption=caption)
    for line in _lines(facts):
        made.add_row(
            Text(line.name),
            *map(aside, line.cells, line.ratios),
            style="cyan" if line.role in ("distilled", "file") else "",
        )
    forecast = forecast_sentence(facts.forecast) if facts.forecast else ""
    return [
        *said, made, *_rivals_table(facts), *_candidates_table(facts), *([Text(forecast)] if forecast else []),
        Text("files: " + ", ".join(f"{facts.export.folder}/{file.file}" for file in facts.export.files)),
    ]  # fmt: skip


def _rivals_table(facts: CompressionFacts) -> list[Table]:
    found = duels(facts)
    if not found:
        return []
    made = table(left("distilled against"), *map(right, ("accuracy", "points", "p")), caption=_test_note(found))
    for one in found:
        p = MISSING if one.p is None else p_value(one.p)
        made.add_row(Text(one.second.name), percent(one.accuracy[1], 1), signed(one.points), p)
    return [made]


def _test_note(found: Sequence[Duel]) -> str:
    """Which tests the p are of."""
    return "; ".join(dict.fromkeys(one.test for one in found if one.p is not None))


def _candidates_table(facts: CompressionFacts) -> list[Table]:
    if not facts.candidates:
        return []
    heads, every = columns(facts), candidates(facts)
    shown = [one for one in every if one.fast or one.small or one.facts.chosen]
    left_out = f"{len(every) - len(shown)} more, each beaten by another, are on the page" if shown != every else ""
    caption = "; ".join(filter(None, (limits_note(facts), left_out)))
    made = table(
        right("#"), left("candidate", wrap=True), left(), *(right(head.replace(", ", "\n")) for head, _ in heads),
        caption=caption,
    )  # fmt: skip
    for one in shown:
        name = f"{one.facts.model} at {one.facts.size} px, {ROLES[one.facts.role]}"
        style = "bold cyan" if one.facts.chosen else "" if one.facts.stands else "dim"
        cells = (show(one.facts) for _, show in heads)
        made.add_row(str(one.number), Text(name), one.facts.precision, *cells, style=style)
    return [made]


def _lines(facts: CompressionFacts) -> list[Line]:
    """The networks in PyTorch, then the exported files. Latencies are shares of the teacher's in the same runtime."""
    teacher = facts.row("teacher")
    reference = [teacher.bytes, teacher.parameters, teacher.flops] if teacher else [None] * 3
    latencies = {_PYTORCH: facts.latency_ms.get("teacher"), "ONNX Runtime": _onnx_latency(facts)}

    def line(name: str, model: str, role: str, accuracy: float | None, costs: Sequence[float | None], at: str) -> Line:
        formats = (lambda x: compact(x, "B"), compact, compact, moment)
        cells = [MISSING if x is None else shown(x) for shown, x in zip(formats, costs, strict=True)]
        ratios = [
            "" if x is None or not of or role == "teacher" else ratio(x, of)
            for x, of in zip(costs, (*reference, latencies.get(at)), strict=True)
        ]
        return Line(name, model, role, (MISSING if accuracy is None else percent(accuracy, 2), *cells), ("", *ratios))

    found = []
    for row in facts.rows:
        latency = facts.latency_ms.get("teacher" if row.role == "teacher" else "student")
        costs = [row.bytes, row.parameters, row.flops, latency]
        found.append(line(_NAMES.get(row.role, row.name), row.model, row.role, row.mean("accuracy"), costs, _PYTORCH))
    for file in facts.export.files:
        costs = [file.bytes, None, None, file.latency_ms]
        found.append(line(file.file, "", "file", file.accuracy, costs, _RUNTIMES.get(file.format, "")))
    return found


def _onnx_latency(facts: CompressionFacts) -> float | None:
    """Of the backbone in fp32 at the size at which it is most accurate; None if it was not exported."""
    found = [one for one in facts.candidates if one.role == "backbone" and one.precision == "fp32"]
    return max(found, key=lambda one: (one.accuracy or 0.0, one.size)).latency_ms if found else None
