"""What an experiment is: runs that are made once, and a table of the paper's figures beside ours."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from understudy.errors import UnderstudyError
from understudy.files import write_whole

if TYPE_CHECKING:  # an experiment is listed without loading torch
    from understudy.api import Run
    from understudy.data import Splits
    from understudy.recipe import AnyRecipe
    from understudy.reporting.facts import Role, Row, RunFacts


@dataclass(frozen=True)
class Measured:
    """What was measured here, once for each seed.

    Attributes:
        digits: decimals to show.
        unit: written after the figure, as in "%".
    """

    values: tuple[float, ...]
    digits: int = 0
    unit: str = ""

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        """The sample standard deviation over seeds; None below two."""
        return stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        spread = "" if self.sd is None else f" ± {self.sd:.{max(self.digits, 1)}f}"
        return f"{self.mean:,.{self.digits}f}{spread}{self.unit}"


@dataclass(frozen=True)
class Comparison:
    """An experiment's outcome: a table, and what has to be said beside it."""

    columns: tuple[str, ...]
    lines: Sequence[tuple[str | Measured, ...]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        rows = [self.columns, ("---",) * len(self.columns), *self.lines]
        table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
        return "\n\n".join([table, *self.notes]) + "\n"

    def plain(self) -> dict[str, object]:
        """As JSON: every measured cell with its seeds, mean and standard deviation."""

        def cell(value: str | Measured) -> object:
            if isinstance(value, str):
                return value
            return {**asdict(value), "mean": value.mean, "sd": value.sd}

        lines = [dict(zip(self.columns, map(cell, line), strict=True)) for line in self.lines]
        return {"lines": lines, "notes": list(self.notes)}

    def show(self, title: str) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for line in self.lines:
            table.add_row(*map(str, line))
        console = Console()
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False, highlight=False)


@dataclass(frozen=True)
class Bench:
    """Where an experiment's runs lie, and what the caller would have otherwise than in the paper.

    Attributes:
        quick: a short version.
        data_root: folder of the named sets.
        pairs: TEACHER:STUDENT, in place of the paper's.
        scale: share of the paper's epochs.
        data: another set, in place of the paper's.
        size: pixels a side of its images.
        groups: a file of groups of its classes that are known.
        held_out: classes that nobody is trained on: names, or a number of them.
        probes: data sets to probe representations on, in place of the paper's.
        download: whether named sets that are not there may be fetched.
    """

    folder: Path
    quick: bool = False
    data_root: str | None = None
    pairs: tuple[str, ...] = ()
    scale: float = 1.0
    data: str | None = None
    size: int | None = None
    groups: str | None = None
    held_out: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    download: bool = False

    def epochs(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def place(self, name: str) -> Path:
        """Where something is kept; what is quick never stands in for what is full."""
        return self.folder / (f"{name}-quick" if self.quick else name)

    def beside(self, experiment: str) -> Bench:
        """The bench of another experiment, whose runs this one shares."""
        return replace(self, folder=self.folder.parent / experiment)

    def ensure(self, name: str, recipe: AnyRecipe) -> Run:
        """The run of this recipe: as it was finished, taken up where it stopped, or made now."""
        from understudy import api

        if self.download:  # before the run, whose recipe is the same wherever its data came from
            self.opened(recipe.data, recipe.size)
            if unlabelled := getattr(recipe, "transfer_set", None):
                self.opened(unlabelled, recipe.size)
        return api.ensure_run(recipe, run=self.place(name))

    def opened(self, data: str, size: int | None = None) -> Splits:
        """A data set, from the folder of the named sets or fetched into it."""
        from understudy.data import open_source

        root = Path(self.data_root) if self.data_root else None
        return open_source(data, root=root, download=self.download, size=size)


NOTHING: frozenset[str] = frozenset()
_FLAGS = {
    "pairs": "--pair",
    "scale": "--scale",
    "data": "--data",
    "size": "--size",
    "groups": "--groups",
    "held_out": "--held-out",
    "probes": "--probe",
}


@dataclass(frozen=True)
class Experiment:
    """One table or figure of a paper.

    Attributes:
        name: what `understudy reproduce` calls it.
        summary: what it shows, in a line.
        paper: where it comes from.
        compare: does the runs and lays the paper's figures beside them.
        minutes: about how long it takes on 2 cores.
        quick_minutes: the same with `--quick`, which keeps the order but not the level of the results.
            None for either: it takes an accelerator, for hours.
        takes: the fields of `Bench` that its caller may set, beside those of place and of time.
    """

    name: str
    summary: str
    paper: str
    compare: Callable[[Bench], Comparison]
    minutes: float | None = None
    quick_minutes: float | None = None
    takes: frozenset[str] = NOTHING

    def run(self, bench: Bench) -> None:
        """Run what is not there yet, print the table, and write results[-quick].json and .md in the folder.

        Raises:
            UnderstudyError: something is set that this experiment does not take.
        """
        changed = {one.name: getattr(bench, one.name) for one in fields(Bench) if one.name in _FLAGS}
        changed = {name: value for name, value in changed.items() if value != getattr(Bench, name)}
        for name in changed:
            if name not in self.takes:
                raise UnderstudyError(f"{self.name} takes no {_FLAGS[name]}; it is what the paper says")
        outcome = self.compare(bench)
        title = f"{self.name}, quick" if bench.quick else self.name
        outcome.show(title)
        words = ["understudy", "reproduce", self.name] + ["--quick"] * bench.quick
        for name, value in changed.items():
            words += [_FLAGS[name], *map(str, value if isinstance(value, tuple) else [value])]
        command = shlex.join(words)
        facts = {"experiment": self.name, "paper": self.paper, "command": command, "quick": bench.quick}
        record = json.dumps({**facts, **outcome.plain()}, indent=2, ensure_ascii=False)
        results = bench.place("results")
        write_whole(results.with_suffix(".json"), record + "\n")
        write_whole(results.with_suffix(".md"), f"# {title}\n\n{self.paper}. `{command}`\n\n{outcome.markdown()}")


def row(facts: RunFacts, *roles: Role, name: str = "") -> Row:
    """The first row with one of these roles, and of this name where one is given."""
    return next(row for row in facts.rows if row.role in roles and name in ("", row.name))


def errors(facts: RunFacts, *roles: Role) -> Measured:
    """A row's errors on the test part, seed by seed."""
    return Measured(tuple(seed.errors for seed in row(facts, *roles).seeds))


def accuracy(facts: RunFacts, *roles: Role, name: str = "") -> Measured:
    """A row's accuracy on the test part in percent, seed by seed."""
    return Measured(tuple(100 * seed.accuracy for seed in row(facts, *roles, name=name).seeds), digits=2, unit="%")


def correlation(facts: RunFacts, *roles: Role, name: str = "") -> Measured | str:
    """By how much a row's class correlations differ from the teacher's, seed by seed; "" where it was not measured."""
    found = row(facts, *roles, name=name).values("correlation_difference")
    return Measured(tuple(found), digits=4) if found else ""
