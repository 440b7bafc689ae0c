"""Results on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from understudy.terminal import Terminal, cell

if TYPE_CHECKING:
    from understudy.evaluation.facts import Facts
    from understudy.runs.targets import Results


def show(done: Results) -> int:
    """Print the results of a verb, and where their page is; of torchrun's processes the first does.

    Returns:
        The exit code: 1 if a part of it failed.
    """
    from understudy.pipeline.device import first_process

    if not first_process():
        return 0
    if not done.report.exists():
        for line in done.without_page:
            Terminal().say(line)
        return 0
    facts = done.facts
    show_facts(facts)
    Terminal().say(f"report: {done.report}")
    return int(bool(getattr(facts, "failed", None)))


def show_facts(facts: Facts) -> None:
    """Print what the facts' page has for the terminal."""
    from understudy.reporting import console

    for part in console(facts):
        Terminal().print(part, soft_wrap=isinstance(part, Text))


def print_rows(rows: Iterable[Sequence[object]], heads: Sequence[str] = ()) -> None:
    """Print a table, plain where there is no terminal."""
    table = Table(*heads, box=None, pad_edge=False, show_header=bool(heads), header_style="bold")
    for row in rows:
        table.add_row(*map(cell, row))
    if table.row_count:
        Terminal().print(table)
