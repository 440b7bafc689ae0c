"""Linear probes for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.table import Table
from rich.text import Text

from understudy.evaluation.probe import ProbedSet, grouped
from understudy.reporting.summary import ORDER, ROLE_NAMES
from understudy.reporting.table import Column, left, right, table
from understudy.terminal import cell as name_cell


def probe_table(found: Sequence[ProbedSet]) -> Table:
    """Data sets down, kinds of networks across: test accuracy in percent, mean ± sd over seeds."""
    titles: dict[str, str] = {role: ROLE_NAMES[role] for role in ORDER}
    # every data set has the same networks, and each name begins with a role
    groups = sorted(found[0].groups, key=lambda group: [*titles].index(group.partition("-")[0]))
    columns: list[Column] = []
    for group in groups:
        role, _, method = group.partition("-")
        columns.append(right(Text(titles[role]).append(f"\n{method}" if method else "", style="not bold dim")))
    numbers = [right(head, style="dim") for head in ("classes", "train", "test")]
    made = table(left("data", wrap=True), *numbers, *columns, caption="test accuracy of a linear probe, %")
    for one in found:
        cells = []
        for group in groups:
            cell, sd = Text(f"{100 * one.mean(group):.2f}"), one.sd(group)
            cells.append(cell if sd is None else cell.append(f" ± {100 * sd:.2f}", style="dim"))
        made.add_row(name_cell(one.data), f"{one.classes:,}", f"{one.train:,}", f"{one.test:,}", *cells)
        if one.neighbors:
            own = grouped(one.neighbors)
            made.add_row("nearest neighbors", "", "", "", *(f"{100 * fmean(own[group]):.2f}" for group in groups))
    return made
