"""Experiments: runs that are trained once, and a table of the paper's results next to ours."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from understudy.config.places import shown
from understudy.errors import UnderstudyError
from understudy.escaping import json_escaped, markdown, markdown_code
from understudy.files import path_of, write_whole

if TYPE_CHECKING:  # listing experiments must not import torch
    from understudy.config.recipe import Recipe
    from understudy.data import Splits
    from understudy.evaluation.facts import Role, Row, RunFacts
    from understudy.runs.run import Run


@dataclass(frozen=True)
class Measured:
    """A measurement over seeds.

    Example:
        >>> str(Measured((1.0, 3.0), digits=1, unit="%"))
        '2.0 ± 1.4%'
    """

    values: tuple[float, ...]
    digits: int = 0  # number of decimals to show
    unit: str = ""  # suffix, such as "%"

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        spread = "" if self.sd is None else f" ± {self.sd:.{max(self.digits, 1)}f}"
        return f"{self.mean:,.{self.digits}f}{spread}{self.unit}"


Line = tuple[str | Measured, ...]


@dataclass(frozen=True)
class Comparison:
    """The result of an experiment: a table with notes."""

    columns: tuple[str, ...]
    lines: Sequence[Line]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        columns, *lines = ([markdown(str(value)) for value in row] for row in (self.columns, *self.lines))
        rows = [columns, ["---"] * len(columns), *lines]
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        return "\n\n".join([table, *map(markdown, self.notes)]) + "\n"

    def plain(self) -> dict[str, object]:
        """JSON-serializable form, with the values, mean and standard deviation of each measured cell."""

        def cell(value: str | Measured) -> object:
            return value if isinstance(value, str) else asdict(value) | {"mean": value.mean, "sd": value.sd}

        lines = [dict(zip(self.columns, map(cell, line), strict=True)) for line in self.lines]
        return {"lines": lines, "notes": list(self.notes)}

    def show(self, title: str) -> None:
        from rich.table import Table

        from understudy.terminal import Terminal, cell

        table = Table(title=cell(title), title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(cell(column), justify="right" if index else "left")
        for line in self.lines:
            table.add_row(*map(cell, line))
        terminal = Terminal()
        terminal.print(table)
        for note in self.notes:
            terminal.print(cell(note))


@dataclass(frozen=True)
class Bench:
    """The folder of an experiment's runs, and overrides of the paper's settings."""

    folder: Path
    quick: bool = False  # run a short version
    data_root: str | None = None  # folder of the named data sets
    pairs: tuple[str, ...] = ()  # TEACHER:STUDENT
    methods: tuple[str, ...] = ()  # distillation methods
    chosen_epochs: int | None = None  # in place of the paper's
    seeds: int | None = None  # in place of the experiment's
    data: str | None = None
    size: int | None = None  # image size in pixels
    backbone: str | None = None  # pre-trained network, or for some experiments the one to pre-train
    groups: str | None = None  # file with known groups of the classes
    held_out: tuple[str, ...] = ()  # classes to exclude from training: names, or how many
    probes: tuple[str, ...] = ()  # data sets for linear probes
    download: bool = False  # whether missing named data sets may be downloaded

    @property
    def home(self) -> Path:
        """Folder of the named data sets."""
        named = os.environ.get("UNDERSTUDY_DATA") or "data" if self.data_root is None else self.data_root
        return path_of(named, "the data root")

    def epochs(self, full: int, quick: int) -> int:
        return self.chosen_epochs or (quick if self.quick else full)

    def place(self, name: str) -> Path:
        """Path of a run or result; quick ones are kept apart from full ones."""
        return self.folder / (f"{name}-quick" if self.quick else name)

    def beside(self, experiment: str) -> Bench:
        """The bench of another experiment, to share its runs."""
        return replace(self, folder=self.folder.parent / experiment)

    def ensure(self, name: str, recipe: Recipe) -> Run:
        """The finished run of this recipe, which is resumed or started as needed."""
        from understudy.pipeline.kinds import pipeline_of
        from understudy.pipeline.run import ensure

        if self.download:  # not a field of the recipe, which is the same however the data was obtained
            self.opened(recipe.data, recipe.size)
            if unlabeled := getattr(recipe, "transfer_set", None):
                self.opened(unlabeled, recipe.size)
        # the authors test with the statistics of training
        return ensure(pipeline_of(recipe.model_copy(update={"precise_bn": False})), self.place(name))

    def opened(self, data: str, size: int | None = None) -> Splits:
        """Open a data set, downloading it if allowed."""
        from understudy.data import open_source

        root = None if self.data_root is None else self.home
        return open_source(data, root=root, download=self.download, size=size)


_FLAGS = {
    "pairs": "--pair", "methods": "--method", "chosen_epochs": "--epochs", "seeds": "--seeds",
    "data": "--data", "size": "--size", "backbone": "--backbone", "groups": "--groups", "held_out": "--held-out",
    "probes": "--probe",
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One table or figure of a paper, from runs that `compare` completes.

    Attributes:
        minutes: approximate duration on 2 CPU cores; None if it needs hours on an accelerator.
        quick_minutes: the same with `--quick`, which preserves the ranking but not the level of the results.
        takes: fields of `Bench` that may be overridden, in addition to folders, `quick` and `download`.
    """

    name: str
    summary: str
    paper: str
    compare: Callable[[Bench], Comparison]
    minutes: float | None = None
    quick_minutes: float | None = None
    takes: frozenset[str] = frozenset()

    def run(self, bench: Bench) -> None:
        """Complete missing runs, print the table, and write results[-quick].json and .md to the folder."""
        changed = {name: getattr(bench, name) for name in _FLAGS if getattr(bench, name) != getattr(Bench, name)}
        for name in changed:
            if name not in self.takes:
                raise UnderstudyError(f"{self.name} takes no {_FLAGS[name]}; remove it to use the paper's setting")
        outcome = self.compare(bench)
        title = f"{self.name}, quick" if bench.quick else self.name
        outcome.show(title)
        words = ["understudy", "reproduce", self.name] + ["--quick"] * bench.quick
        for name, value in changed.items():
            words += [_FLAGS[name], *map(str, value if isinstance(value, tuple) else [value])]
        command, shown_command = shlex.join(words), shlex.join(map(shown, words))
        facts = {"experiment": self.name, "paper": self.paper, "command": command, "quick": bench.quick}
        record = json_escaped(json.dumps({**facts, **outcome.plain()}, indent=2, ensure_ascii=False))
        results = bench.place("results")
        write_whole(results.with_suffix(".json"), record + "\n")
        write_whole(
            results.with_suffix(".md"),
            f"# {title}\n\n{self.paper}. {markdown_code(shown_command)}\n\n{outcome.markdown()}",
        )


def row(facts: RunFacts, *roles: Role, name: str = "") -> Row:
    """The first row with one of these roles, and this name if given."""
    return next(row for row in facts.rows if row.role in roles and name in ("", row.name))


def errors(facts: RunFacts, *roles: Role) -> Measured:
    """Number of test errors, per seed."""
    return Measured(tuple(seed.errors for seed in row(facts, *roles).seeds))


def accuracy(facts: RunFacts, *roles: Role, name: str = "") -> Measured:
    """Test accuracy in percent, per seed."""
    return Measured(tuple(100 * seed.accuracy for seed in row(facts, *roles, name=name).seeds), digits=2, unit="%")


def correlation(facts: RunFacts, *roles: Role, name: str = "") -> Measured | str:
    """Difference from the teacher's class correlations, per seed; empty if not measured."""
    found = row(facts, *roles, name=name).values("correlation_difference")
    return Measured(tuple(found), digits=4) if found else ""
