"""Pages and terminal output, made from facts alone; one module per page."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from understudy.config.options import Options
from understudy.evaluation.facts import (
    BenchmarkFacts,
    CompressionFacts,
    Facts,
    FewShotFacts,
    IndexFacts,
    NeighborFacts,
    PanelFacts,
    ProbeFacts,
    RunFacts,
    SuiteFacts,
)
from understudy.reporting.table import Renderables
from understudy.reporting.text import for_page, for_terminal


class Page(Protocol):
    """A module of a page: a self-contained HTML file, and tables and lines for a `rich` console."""

    @staticmethod
    def render(facts: Any, folder: Path) -> str: ...
    @staticmethod
    def console(facts: Any) -> Renderables: ...


_PAGES: dict[type[Facts], str] = {
    RunFacts: "run", FewShotFacts: "few_shots", SuiteFacts: "suite", CompressionFacts: "compression",
    PanelFacts: "panel", IndexFacts: "index", BenchmarkFacts: "benchmark", NeighborFacts: "neighbors",
    ProbeFacts: "probe",
}  # fmt: skip

_NO_OPTIONS = Options()


def render(facts: Facts, folder: Path, options: Options = _NO_OPTIONS) -> str:
    """The page of some facts.

    Args:
        folder: holds evaluation.json and its images.
        options: of what was run.
    """
    return _page_of(facts).render(for_page(facts, folder, options), folder)


def console(facts: Facts) -> Renderables:
    """What the terminal shows of some facts."""
    return _page_of(facts).console(for_terminal(facts))


def _page_of(facts: Facts) -> Page:
    """The page's module, imported here: figures and templates take a second to import, and training needs neither."""
    module: Any = import_module(f"{__name__}.{_PAGES[type(facts)]}")
    return module
