"""Pages and terminal output, made from facts alone; one module per page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from understudy.evaluation.facts import CompressionFacts, Facts, FewShotFacts, PanelFacts, RunFacts, SuiteFacts
from understudy.reporting import compression, few_shots, panel, run, suite
from understudy.reporting.table import Renderables


class Page(Protocol):
    """A module of a page: a self-contained HTML file, and tables and lines for a `rich` console."""

    @staticmethod
    def render(facts: Any, folder: Path) -> str: ...
    @staticmethod
    def console(facts: Any) -> Renderables: ...


_PAGES: dict[type[Facts], Page] = {
    RunFacts: run, FewShotFacts: few_shots, SuiteFacts: suite, CompressionFacts: compression, PanelFacts: panel
}  # fmt: skip


def render(facts: Facts, folder: Path) -> str:
    """The page of some facts; `folder` holds evaluation.json and its images."""
    return _PAGES[type(facts)].render(facts, folder)


def console(facts: Facts) -> Renderables:
    """What the terminal shows of some facts."""
    return _PAGES[type(facts)].console(facts)
