"""Bars of errors, drawn to scale from zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from understudy.evaluation.facts import Row, RunFacts
from understudy.reporting.contrast import is_comparison


@dataclass(frozen=True, slots=True)
class Bar:
    """The errors of one model."""

    row: Row
    errors: float
    width: float  # in percent of the longest bar
    seeds: list[float]  # positions of the seeds, in the same percent


def bars(facts: RunFacts) -> list[Bar]:
    """Bars of the models in the headline: of several methods all, else the first row of each role."""
    if is_comparison(facts):
        return bars_of(facts.of("teacher", "alone", "distilled"))
    teacher, alone, distilled = facts.of("teacher")[:1], facts.of("alone")[:1], facts.of("distilled")[:1]
    if distilled:  # only the same student is a fair baseline
        baseline = facts.baseline(distilled[0])
        alone = [baseline] if baseline else []
    rows = [*teacher, *alone, *distilled]
    return bars_of(rows if len(rows) > 1 else facts.of("model"))


def bars_of(rows: Sequence[Row]) -> list[Bar]:
    """Bars in proportion to the most errors of any seed; none for a single model, or without errors."""
    longest = max((seed.errors for row in rows for seed in row.seeds), default=0)
    if len(rows) < 2 or not longest:
        return []

    def scaled(errors: float) -> float:
        return round(100 * errors / longest, 2)

    return [Bar(row, row.errors, scaled(row.errors), [scaled(s.errors) for s in row.seeds]) for row in rows]
