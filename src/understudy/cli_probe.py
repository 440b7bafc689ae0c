"""`understudy probe` on the command line: its flags, its table and its JSON. Loaded when asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy.cli_flags import DataRoot, Download, Size

if TYPE_CHECKING:
    from understudy.probing import ProbedSet


def probe(
    target: str,
    /,
    *data: str,
    teacher: tuple[str, ...] = (),
    only_classes: tuple[str, ...] = (),
    data_root: DataRoot = None,
    download: Download = False,
    size: Size = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Read classes from the networks' frozen representations with linear classifiers, on any data sets.

    Parameters
    ----------
    target
        A run folder or a weights file.
    data
        Sets' names, folders, zips, CSVs or parquet files; their classes need not be the networks'.
    teacher
        Run folders or weights files to probe beside them.
    only_classes
        Classes of the data, by name or index, as in 3 8; all where unset.
    as_json
        Print a JSON list with an object for each data set.
    """
    from understudy import probing

    found = probing.probe(
        target, *data, teacher=teacher, only_classes=only_classes, data_root=data_root, download=download, size=size
    )
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
        return
    console = Console()
    console.print(probe_table(found))
    for one in found:
        for reason, count in one.set_aside.items():
            console.print(Text(f"{one.data}: {count:,} set aside: {reason}"), soft_wrap=True)


def probe_table(found: Sequence[ProbedSet]) -> Table:
    """Data sets down, kinds of networks across: test accuracy in percent, mean ± sd over seeds."""
    from understudy.reporting.summary import ORDER, ROLE_NAMES

    titles: dict[str, str] = {role: ROLE_NAMES[role] for role in ORDER}
    order = list(titles)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.caption, table.caption_justify = Text("accuracy of a linear probe on the test part, %"), "left"
    table.add_column("data", overflow="fold")
    for head in ("classes", "train", "test"):
        table.add_column(head, justify="right", style="dim", no_wrap=True)
    # every set has the same networks, and each begins with its role
    groups = sorted(found[0].groups, key=lambda group: order.index(group.partition("-")[0]))
    for group in groups:
        role, _, method = group.partition("-")
        title = Text(titles[role]).append(f"\n{method}" if method else "", style="not bold dim")
        table.add_column(title, justify="right", no_wrap=True)
    for one in found:
        cells = []
        for group in groups:
            cell, sd = Text(f"{100 * one.mean(group):.2f}"), one.sd(group)
            cells.append(cell if sd is None else cell.append(f" ± {100 * sd:.2f}", style="dim"))
        table.add_row(Text(one.data), f"{one.classes:,}", f"{one.train:,}", f"{one.test:,}", *cells)
    return table
