"""The page of a folder of runs: each with its headline, sortable."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from understudy.evaluation.facts import IndexFacts
from understudy.reporting.table import Renderables, left, right, table
from understudy.reporting.template import fill
from understudy.reporting.wording import MISSING, duration, percent

_HEADS = (
    ("run", False), ("verb", False), ("data", False), ("accuracy", True), ("training", True), ("begun", True),
    ("finding", False),
)  # fmt: skip
_STYLES = {"good": "green", "bad": "red", "open": "yellow", "plain": ""}


def render(facts: IndexFacts, folder: Path) -> str:
    """The page as one string of HTML."""
    return fill("index", facts.name, "runs", (), entries=facts.entries, heads=_HEADS)


def console(facts: IndexFacts) -> Renderables:
    """The table of the page, without the sentences."""
    made = table(*(right(head) if number else left(head, wrap=head in ("run", "finding")) for head, number in _HEADS))
    for one in facts.entries:
        made.add_row(
            Text(one.path), Text(one.kind), Text(one.data),
            MISSING if one.accuracy is None else percent(one.accuracy, 2),
            MISSING if one.seconds is None else duration(one.seconds),
            f"{one.created:%Y-%m-%d %H:%M}" if one.created else MISSING,
            Text(one.verdict, _STYLES[one.tone]),
        )  # fmt: skip
    return [made]
