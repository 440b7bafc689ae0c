"""The page of a folder of runs: each with its headline, sortable, and backbones side by side."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from understudy.evaluation.facts import IndexFacts
from understudy.reporting.side_by_side import of_few_shots, of_suites
from understudy.reporting.table import Renderables, left, right, table
from understudy.reporting.template import fill
from understudy.reporting.wording import MISSING, percent

_HEADS = (
    ("run", False), ("finding", False), ("accuracy", True), ("data", False), ("verb", False), ("training", True),
    ("begun", True),
)  # fmt: skip
_STYLES = {"good": "green", "bad": "red", "open": "yellow", "plain": ""}


def render(facts: IndexFacts, folder: Path) -> str:
    """The page as one string of HTML."""
    compared = [*of_few_shots(facts.few_shots), *of_suites(facts.suites)]
    return fill("index", facts.name, "runs", (), entries=facts.entries, heads=_HEADS, compared=compared)


def console(facts: IndexFacts) -> Renderables:
    """The table of the page, as much of it as fits 80 characters."""
    made = table(left("run"), left("data"), right("accuracy"), right("begun"), left("finding", wrap=True))
    for one in facts.entries:
        made.add_row(
            Text(one.path), Text(one.data), MISSING if one.accuracy is None else percent(one.accuracy, 2),
            f"{one.created:%Y-%m-%d}" if one.created else MISSING, Text(one.verdict, _STYLES[one.tone]),
        )  # fmt: skip
    return [made]
