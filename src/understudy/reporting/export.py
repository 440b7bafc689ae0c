"""Exported files for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from understudy.evaluation.facts import ExportFacts, OriginalFacts
from understudy.reporting.table import left, right, table
from understudy.reporting.wording import MISSING, compact, general, milliseconds, percent


def export_table(name: str, facts: ExportFacts) -> Table:
    """The network in PyTorch, and each of its files: size, latency, accuracy, difference from the network."""
    heads = ("size", "latency", "p90", "accuracy", "agreement", "max Δ")
    caption = f"{name}; latency: one sample on one thread, median and 90th percentile of interleaved runs"
    made = table(left("file"), *map(right, heads), caption=caption)
    made.add_row("in PyTorch", *_cells(facts.original), MISSING, MISSING, style="dim")
    for file in facts.files:
        made.add_row(Text(file.file), *_cells(file), percent(file.agreement, 2), general(file.worst_difference))
    return made


def _cells(one: OriginalFacts) -> list[str]:
    accuracy = MISSING if one.accuracy is None else f"{one.accuracy:.2%}"
    p90 = MISSING if one.latency_p90_ms is None else milliseconds(one.latency_p90_ms)
    return [compact(one.bytes, "B"), milliseconds(one.latency_ms), p90, accuracy]
