"""The page of a search for the nearest images."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from understudy.evaluation.facts import NeighborFacts
from understudy.reporting.table import Renderables, left, right, table
from understudy.reporting.template import fill
from understudy.terminal import cell


def render(facts: NeighborFacts, folder: Path) -> str:
    """The page as one string of HTML."""
    return fill("neighbors", facts.model, "nearest images", [], [f"{facts.images:,} images"], facts=facts)


def console(facts: NeighborFacts) -> Renderables:
    """A line for each image that was found."""
    columns = left("query", wrap=True), left("nearest", wrap=True), right("cosine")
    made = table(*columns, caption=f"of {facts.images:,} images")
    for query in facts.queries:
        if query.error is not None:
            made.add_row(cell(query.path), Text(query.error, "yellow"), "")
        for place, one in enumerate(query.neighbors):
            made.add_row(cell("" if place else query.path), cell(one.path), f"{one.similarity:.3f}")
    return [made]
