"""`understudy specialists` on the command line: its flags and its tables. Loaded when asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from cyclopts import Group, Parameter
from pydantic import ConfigDict, model_validator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy.errors import UnderstudyError
from understudy.recipe import SpecialistRecipe

if TYPE_CHECKING:
    from understudy.panels import Manifest
    from understudy.reporting.specialists import PanelFacts

_HIDDEN = Parameter(show=False, parse=False)
_PANEL = Parameter(group=Group("Panel", sort_key=1))


class SpecialistFlags(SpecialistRecipe):
    """The flags of `specialists` that are the recipe's: all but what follows from the generalist and its groups."""

    model_config = ConfigDict(use_attribute_docstrings=False)

    model: Annotated[str, _HIDDEN] = ""
    group: Annotated[tuple[str, ...], _HIDDEN] = ()
    seeds: Annotated[int, _HIDDEN] = 1
    freeze: Annotated[bool, _HIDDEN] = False
    zero_head: Annotated[bool, _HIDDEN] = False
    calibrate: Annotated[bool, _HIDDEN] = False
    class_bias: Annotated[tuple[str, ...], _HIDDEN] = ()
    class_priors: Annotated[tuple[str, ...], _HIDDEN] = ()
    only_classes: Annotated[tuple[str, ...], _HIDDEN] = ()
    omit_classes: Annotated[tuple[str, ...], _HIDDEN] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        return self


def specialists(
    data: str,
    /,
    *,
    generalist: Annotated[str, _PANEL] = "",
    clusters: Annotated[int, _PANEL] = 5,
    group_size: Annotated[int | None, _PANEL] = None,
    columns: Annotated[Literal["correlation", "covariance"], _PANEL] = "correlation",
    top_n: Annotated[int, _PANEL] = 1,
    only: Annotated[int | None, _PANEL] = None,
    parallel: Annotated[int, _PANEL] = 1,
    student: Annotated[tuple[str, ...], _PANEL] = (),
    flags: Annotated[SpecialistFlags | None, Parameter(name="*")] = None,
    run: Annotated[Path | None, _PANEL] = None,
    overwrite: Annotated[bool, _PANEL, Parameter(negative=())] = False,
) -> None:
    """Group the classes that a generalist confuses, and train a specialist for each group.

    Parameters
    ----------
    data
        A set's name (see understudy datasets), a folder of class folders, a zip, a CSV or a parquet file.
    generalist
        A run folder of one network, or a weights file: what knows all classes.
    clusters
        How many groups.
    group_size
        Take the classes nearest to each group's centre, this many; groups may overlap. The clusters where unset.
    columns
        What is clustered: columns of the predictions' correlation, or, as in the paper, of their covariance.
    top_n
        How many of the generalist's most probable classes call specialists.
    only
        Train this specialist alone, counted from 0.
    parallel
        How many specialists to train at a time.
    student
        Run folders or weights files of networks distilled from the panel, to show on its page.
    run
        The folder; specialists/ in the generalist's run folder where unset.
    overwrite
        Make everything again.
    """
    if not generalist:
        raise UnderstudyError("say what the specialists begin from: --generalist RUN; understudy train makes one")
    from understudy.panel_report import facts_of
    from understudy.specialising import specialists as make

    folder = make(
        data, generalist, clusters=clusters, group_size=group_size, columns=columns, top_n=top_n,
        only=only, parallel=parallel, student=student, run=run, overwrite=overwrite,
        command=["understudy", *sys.argv[1:]],
        **(flags.model_dump(exclude_unset=True) if flags else {}),
    )  # fmt: skip
    console = Console()
    console.print(groups_table(folder.manifest))
    missing = folder.missing()
    if missing:
        left = ", ".join(map(str, missing))
        console.print(
            Text(f"specialists that are not trained yet: {left}; the same command without --only trains them")
        )
    elif folder.report.exists():
        facts = facts_of(folder)
        console.print(scores_table(facts))
        console.print(cover_table(facts))
        console.print(Text(f"report: {folder.report}"), soft_wrap=True)
    if not missing:
        console.print(
            Text(f"distil it with: understudy distill {data} --teacher {folder.path} --student MODEL"), soft_wrap=True
        )


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def groups_table(manifest: Manifest) -> Table:
    """A row for each group: its classes, and the share of the generalist's confusion that it holds."""
    table = _table()
    table.add_column("group", justify="right")
    table.add_column("confusion\nheld, %", justify="right", no_wrap=True)
    table.add_column("classes", overflow="fold")
    for number, (group, held) in enumerate(zip(manifest.groups, manifest.held, strict=True)):
        table.add_row(str(number), f"{100 * held:.1f}", Text(", ".join(group)))
    return table


def scores_table(facts: PanelFacts) -> Table:
    """The page's numbers: measures down; generalist, panel and students across."""
    from understudy.reporting.specialists import lines

    table = _table()
    table.add_column("", no_wrap=True)
    for row in facts.rows:
        table.add_column(row.name, justify="right")
    for line in lines(facts):
        cells = [Text(cell.value).append(f" {cell.share}" if cell.share else "", style="dim") for cell in line.cells]
        table.add_row(Text(line.label).append(f"  {line.unit}", style="dim"), *cells)
    return table


def cover_table(facts: PanelFacts) -> Table:
    """The paper's table 4."""
    from understudy.reporting.specialists import change

    table = _table()
    for head in (
        "specialists that\ncover the class",
        "test\nexamples",
        "delta in\ntop 1 correct",
        "relative change\nof accuracy",
    ):
        table.add_column(head, justify="right")
    for one in facts.cover:
        table.add_row(str(one.specialists), f"{one.examples:,}", f"{one.delta:+,}", change(one))
    return table
