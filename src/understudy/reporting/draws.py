"""Transfers from few examples, drawn several times: medians and spreads, as a table and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table
from rich.text import Text

from understudy import __version__
from understudy.reporting.page import command_line, environment
from understudy.reporting.wording import MISSING


@dataclass(frozen=True)
class Drawn:
    """What one number of shots came to.

    Attributes:
        shots: examples of each class.
        examples: how many that are.
        accuracies: in [0, 1], one for each draw; none without a test part.
    """

    shots: int
    examples: int
    accuracies: tuple[float, ...]

    @property
    def median(self) -> float | None:
        return median(self.accuracies) if self.accuracies else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The worst and the best draw."""
        return (min(self.accuracies), max(self.accuracies)) if self.accuracies else None

    @property
    def cells(self) -> tuple[str, ...]:
        """Shots, examples, median, worst, best and each draw, in percent."""
        shown = [MISSING if x is None else f"{100 * x:.2f}" for x in (self.median, *(self.spread or (None, None)))]
        draws = " ".join(f"{100 * x:.1f}" for x in self.accuracies) or MISSING
        return (f"{self.shots:,}", f"{self.examples:,}", *shown, draws)


HEADS = ("shots", "examples", "median", "worst", "best", "each draw")


def draws_table(data: str, backbone: str, rows: Sequence[Drawn]) -> Table:
    """Numbers of shots down; the median of the draws, the worst, the best and each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.caption, table.caption_justify = Text(f"{backbone} on {data}: test accuracy, %"), "left"
    for head in HEADS:
        table.add_column(head, justify="left" if head == HEADS[-1] else "right", no_wrap=head != HEADS[-1])
    for row in rows:
        table.add_row(*row.cells)
    return table


def render_draws(name: str, data: str, backbone: str, rows: Sequence[Drawn], command: Sequence[str]) -> str:
    """The whole page as one string of HTML."""
    template = environment().get_template("draws.html.j2")
    return template.render(
        name=name, data=data, backbone=backbone, rows=rows, heads=HEADS, version=__version__,
        command=command_line(command) if command else "",
    )  # fmt: skip
