"""The page of a folder of runs: each with its headline, sortable."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from understudy.evaluation.facts import IndexFacts
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
    return fill("index", facts.name, "runs", (), entries=facts.entries, heads=_HEADS)


def console(facts: IndexFacts) -> Renderables:
    """The table of the page, as much of it as fits 80 characters."""
    made = table(left("run"), left("data"), right("accuracy"), right("begun"), left("finding", wrap=True))
    for one in facts.entries:
        made.add_row(
            Text(one.path), Text(one.data), MISSING if one.accuracy is None else percent(one.accuracy, 2),
            f"{one.created:%Y-%m-%d}" if one.created else MISSING, Text(one.verdict, _STYLES[one.tone]),
        )  # fmt: skip
    return [made]
