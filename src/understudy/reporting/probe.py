"""The page of linear probes, and its table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from understudy.evaluation.facts import ProbedSet, ProbeFacts, Role
from understudy.evaluation.facts.probe import grouped
from understudy.reporting.figures import COLORS, Panel, height_of, panel, rows_axis
from understudy.reporting.summary import ORDER, ROLE_NAMES
from understudy.reporting.table import Column, Renderables, left, right, table
from understudy.reporting.template import fill
from understudy.reporting.wording import plural
from understudy.terminal import cell as name_cell

_NEIGHBORS = "nearest neighbors"


def render(facts: ProbeFacts, folder: Path) -> str:
    """The page as one string of HTML."""
    groups = groups_of(facts.results)
    cells = [
        (label, *(Markup("{} <small>{}</small>").format(*cell) if cell[1] else cell[0] for cell in values))
        for label, _, values in lines(facts.results)
    ]
    return fill(
        "probe", facts.name, "linear probes", facts.command, hardware=facts.hardware, versions=facts.versions,
        sets=len(facts.results), networks=[named(group) for group in groups], rows=cells,
        pictures=[Panel(one.data, _picture(one, groups)) for one in facts.results],
        sizes=[f"{one.data}: {one.classes:,} classes, {one.train:,} samples to fit to, {one.test:,} to test on"
               for one in facts.results],
        seeds=max(map(len, facts.results[0].groups.values())), neighbors=any(one.neighbors for one in facts.results),
        skipped=[f"{one.data}: {plural(n, 'record')} skipped: {reason}"
                 for one in facts.results for reason, n in one.skipped.items()],
    )  # fmt: skip


def console(facts: ProbeFacts) -> Renderables:
    """The table of the page."""
    return [probe_table(facts.results)]


def probe_table(found: Sequence[ProbedSet]) -> Table:
    """Data sets down, kinds of networks across: test accuracy in percent, mean ± sd over seeds."""
    columns: list[Column] = []
    for group in groups_of(found):
        role, method = named(group)
        columns.append(right(Text(role).append(f"\n{method}" if method else "", style="not bold dim")))
    numbers = [right(head, style="dim") for head in ("classes", "train", "test")]
    made = table(left("data", wrap=True), *numbers, *columns, caption="test accuracy of a linear probe, %")
    for label, counts, values in lines(found):
        cells = (Text(mean).append(f" {spread}" if spread else "", style="dim") for mean, spread in values)
        made.add_row(name_cell(label), *counts, *cells)
    return made


def lines(found: Sequence[ProbedSet]) -> list[tuple[str, tuple[str, str, str], list[tuple[str, str]]]]:
    """The table: a label, three counts, and for each kind of networks the mean in percent and ± its sd over seeds."""
    made: list[tuple[str, tuple[str, str, str], list[tuple[str, str]]]] = []
    for one in found:
        groups, counts = groups_of(found), (f"{one.classes:,}", f"{one.train:,}", f"{one.test:,}")
        sds = [one.sd(group) for group in groups]
        spreads = ["" if sd is None else f"± {100 * sd:.2f}" for sd in sds]
        means = [f"{100 * one.mean(group):.2f}" for group in groups]
        made.append((one.data, counts, list(zip(means, spreads, strict=True))))
        if one.neighbors:
            own = grouped(one.neighbors)
            made.append((_NEIGHBORS, ("", "", ""), [(f"{100 * fmean(own[group]):.2f}", "") for group in groups]))
    return made


def groups_of(found: Sequence[ProbedSet]) -> list[str]:
    """The kinds of networks, which every data set has, in the order of their roles; names of your own come last."""
    return sorted(found[0].groups, key=lambda group: (role_of(group) is None, ORDER.index(role_of(group) or "member")))


def role_of(group: str) -> Role | None:
    """What a name such as "distilled-crd" begins with; None for a name of your own."""
    return next((role for role in ORDER if group.partition("-")[0] == role), None)


def named(group: str) -> tuple[str, str]:
    """The name of a role and what follows it, as the method."""
    role = role_of(group)
    return (group, "") if role is None else (ROLE_NAMES[role], group.partition("-")[2])


def _picture(one: ProbedSet, groups: Sequence[str]) -> Markup:
    """A row for each kind of networks, by its number: a dot for each seed, a diamond for the mean, a ring for k-NN."""
    rows, near = range(len(groups)), grouped(one.neighbors)
    label = f"Test accuracy of linear probes, {plural(len(groups), 'network')}"
    with panel("probes", label, height_of(len(groups))) as (ax, svg):
        for row, group in zip(rows, groups, strict=True):
            color = COLORS[role_of(group) or "model"]
            values = [100 * probe.accuracy for probe in one.groups[group]]
            ax.plot(values, [row] * len(values), "o", color=color, markersize=6, alpha=0.45, mew=0)
            ax.plot([100 * one.mean(group)], [row], "D", color=color, markersize=7.5)
            if group in near:
                ax.plot([100 * fmean(near[group])], [row], "o", color="none", markeredgecolor=color, markersize=8,
                        mew=1.8)  # fmt: skip
        rows_axis(ax, [str(row + 1) for row in rows], 0.08)
    return svg()
