"""The page of transfers from few examples: the median and spread over draws."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from understudy.evaluation.facts import FewShotFacts, ShotResult
from understudy.reporting.table import Renderables, left, right, table
from understudy.reporting.template import fill
from understudy.reporting.wording import MISSING, percent

_HEADS = ("shots", "examples", "median", "lowest", "highest", "all draws")


def render(facts: FewShotFacts, folder: Path) -> str:
    """The page as one string of HTML."""
    return fill(
        "few_shots", facts.name, "few-shot transfer", facts.command, [facts.data, facts.backbone],
        heads=_HEADS, rows=[_cells(result) for result in facts.results],
    )  # fmt: skip


def console(facts: FewShotFacts) -> Renderables:
    """The table of the page."""
    caption = f"{facts.backbone} on {facts.data}: test accuracy"
    made = table(*map(right, _HEADS[:-1]), left(_HEADS[-1], wrap=True), caption=caption)
    for result in facts.results:
        made.add_row(*map(Text, _cells(result)))
    return [made]


def _cells(result: ShotResult) -> tuple[str, ...]:
    shown = [
        MISSING if accuracy is None else percent(accuracy, 2)
        for accuracy in (result.median, *(result.spread or (None, None)))
    ]
    draws = " ".join(f"{100 * accuracy:.1f}" for accuracy in result.accuracies) or MISSING
    return (f"{result.shots:,}", f"{result.examples:,}", *shown, draws)
