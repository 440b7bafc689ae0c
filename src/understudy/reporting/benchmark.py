"""The page of a benchmark: one network's files by size, latency and accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.text import Text

from understudy.evaluation.facts import BenchmarkFacts, OriginalFacts, ThreadsFacts
from understudy.reporting.figures import COLORS, INK, Panel, few_ticks, panel
from understudy.reporting.table import Renderables, left, right, table
from understudy.reporting.template import fill
from understudy.reporting.wording import MISSING, compact, general, milliseconds, percent

_LARGEST, _LEAST = 420.0, 14.0  # areas of markers in square points
_ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table and its point in the picture."""

    number: int
    name: str
    file: str
    facts: OriginalFacts
    agreement: str = MISSING
    difference: str = MISSING


def render(facts: BenchmarkFacts, folder: Path) -> str:
    """The page as one string of HTML."""
    return fill(
        "benchmark", facts.name, "benchmark", facts.command, [facts.data], hardware=facts.hardware,
        heads=_heads(facts), rows=[(line.number, *_cells(facts, line)) for line in lines(facts)],
        pictures=[Panel(f"Accuracy, %, against latency, {_threads(one)}", _picture(facts, one)) for one in facts.timed],
        left_out=facts.left_out, examples=facts.examples, versions=facts.versions,
    )  # fmt: skip


def console(facts: BenchmarkFacts) -> Renderables:
    """The table of the page, and why formats are not in it."""
    heads = _heads(facts)
    shown = [at for at, head in enumerate(heads) if head not in ("file", "p90")]  # 80 columns
    made = table(left("format"), *(right(heads[at]) for at in shown[1:]))
    for line in lines(facts):
        cells = _cells(facts, line)
        made.add_row(*(Text(cells[at]) for at in shown), style="dim" if line.name == _ORIGINAL else "")
    return [made, *(Text(f"{name} left out: {reason}", "yellow") for name, reason in facts.left_out.items())]


def lines(facts: BenchmarkFacts) -> list[Line]:
    """The network in PyTorch, then its files in their order."""
    found = [Line(1, _ORIGINAL, "in PyTorch", facts.original)]
    for number, one in enumerate(facts.files, 2):
        agreement, difference = percent(one.agreement, 2), general(one.worst_difference)
        found.append(Line(number, one.format, one.file, one, agreement, difference))
    return found


def _threads(one: ThreadsFacts) -> str:
    return f"{one.threads or 'all'} thread{'' if one.threads == 1 else 's'}"


def _heads(facts: BenchmarkFacts) -> list[str]:
    times = [head for one in facts.timed for head in (f"ms, {_threads(one)}", "p90")]
    return ["format", "file", "size", *times, "accuracy", "agreement", "max Δ"]


def _cells(facts: BenchmarkFacts, line: Line) -> list[str]:
    times = [
        milliseconds(by.get(line.name, float("nan")))
        for one in facts.timed
        for by in (one.latency_ms, one.latency_p90_ms)
    ]
    accuracy = MISSING if line.facts.accuracy is None else percent(line.facts.accuracy, 2)
    name = "PyTorch" if line.name == _ORIGINAL else line.name
    return [name, line.file, compact(line.facts.bytes, "B"), *times, accuracy, line.agreement, line.difference]


def _picture(facts: BenchmarkFacts, timed: ThreadsFacts) -> Markup:
    """Accuracy (without labels, agreement) against latency, with the size as the marker's area; numbers are rows."""
    shown = [line for line in lines(facts) if line.name in timed.latency_ms]
    largest = max(line.facts.bytes for line in shown)
    with panel(f"formats-{timed.threads}", f"Accuracy of each format against its latency, {_threads(timed)}", 3.4) as (
        ax, svg,
    ):  # fmt: skip
        for at, line in enumerate(shown):
            x, y = timed.latency_ms[line.name], 100 * _score(facts, line)
            area = max(_LEAST, _LARGEST * line.facts.bytes / largest)
            color = COLORS["teacher" if line.name == _ORIGINAL else "distilled"]
            ax.scatter([x], [y], s=area, color=color, alpha=0.55, linewidths=0, zorder=3)
            offset = (0, (area**0.5 / 2 + 8) * (-1 if at % 2 else 1))  # files of equal accuracy lie on one line
            ax.annotate(str(line.number), (x, y), offset, textcoords="offset points", ha="center", va="center",
                        fontsize=10, color=INK, zorder=5)  # fmt: skip
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(which="minor", bottom=False)
        ax.set_xlabel("latency, ms, one sample")
        ax.grid(axis="x", visible=True)
        few_ticks(ax.yaxis)
        ax.margins(x=0.14, y=0.3)
    return svg()


def _score(facts: BenchmarkFacts, line: Line) -> float:
    if line.facts.accuracy is not None:
        return line.facts.accuracy
    return {one.format: one.agreement for one in facts.files}.get(line.name, 1.0)
