"""The page of a panel of specialists: where they help, what they cost, and how the classes were grouped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import comb
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from understudy import __version__
from understudy.reporting.comparison import p_value
from understudy.reporting.facts import Matrix, Share, read_facts
from understudy.reporting.heatmaps import POSITIVE, png
from understudy.reporting.page import command_line, environment
from understudy.reporting.summary import Cell
from understudy.reporting.wording import MISSING, Headline, Tone, compact, milliseconds, plural, ratio, signed

_NAMED = 40  # classes whose names still fit beside the rows of the map
_SIDE = 200  # cells a side of the map; of more classes, blocks of neighbours are averaged


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Member(_Facts):
    """The generalist, the panel, or a student: its scores on the test part, and what it costs to use."""

    name: str
    model: str = ""
    accuracy: Share
    errors: int
    conditional: float  # accuracy given the group; NaN where no sample is of any group
    nll: float
    ece: float
    parameters: int | None = None
    flops: float | None = None
    latency_ms: float | None = None
    latency_spread_ms: float | None = None


class Cover(_Facts):
    """The test samples whose class this many specialists tell apart, and how many are right."""

    specialists: int
    examples: int
    generalist: int
    panel: int
    delta: int
    change: float | None = None


class ClassGroup(_Facts):
    """One specialist's classes; of their test samples, how many are told right among the group's classes."""

    classes: list[str]
    examples: int
    generalist: int
    panel: int
    asked: int  # test samples for which the specialist was asked
    held: Share  # of the expected confusion on the training part


class PanelFacts(_Facts):
    """All that the page tells of a panel."""

    name: str
    data: str
    examples: int
    mended: int  # test samples that the panel gets right and the generalist does not
    spoilt: int  # and the other way round
    created: datetime | None = None
    hardware: str = ""
    command: list[str] = []
    rows: list[Member]
    cover: list[Cover]
    groups: list[ClassGroup]
    asked: float  # specialists a sample
    steps: int
    top_n: int
    classes: list[str]  # in the order of the map
    covariance: Matrix
    notes: list[str] = []

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        return read_facts(cls, facts, "the panel cannot be reported", "evaluate it again")

    def row(self, name: str) -> Member:
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True, slots=True)
class Line:
    label: str
    unit: str
    cells: list[Cell]


def render_panel(facts: PanelFacts) -> str:
    """The whole page as one string of HTML."""
    spread, blocks = shown_map(facts.covariance)
    return (
        environment()
        .get_template("specialists.html.j2")
        .render(
            facts=facts,
            version=__version__,
            headline=headline(facts),
            lines=lines(facts),
            map=f"data:image/png;base64,{png(spread, 1.0, POSITIVE)}",
            names=facts.classes if len(facts.classes) <= _NAMED and not blocks else [],
            blocks=blocks,
            held=sum(group.held for group in facts.groups),
            command=command_line(facts.command) if facts.command else "",
            change=change,
        )
    )


def headline(facts: PanelFacts) -> Headline:
    before, after = facts.row("generalist"), facts.row("panel")
    gained, p = facts.mended - facts.spoilt, by_chance(facts.mended, facts.spoilt)
    tone: Tone
    if p >= 0.05:
        tone, verdict = "open", "Chance could explain what the specialists change"
    elif gained > 0:
        tone, verdict = "good", "The specialists help"
    else:
        tone, verdict = "bad", "The specialists do harm"
    change = f"{100 * before.accuracy:.2f}% to {100 * after.accuracy:.2f}%"
    given = f"{100 * before.conditional:.2f}% to {100 * after.conditional:.2f}%"
    return Headline(
        tone,
        verdict,
        f"{plural(len(facts.groups), 'specialist')} bring the generalist's accuracy from {change}, "
        f"and, given the group, from {given}.",
        f"Of {facts.examples:,} samples the panel mends {facts.mended:,} and spoils {facts.spoilt:,}, p {p_value(p)} "
        "by an exact sign test (McNemar's): this covers the choice of test samples, not chance in training.",
    )


def by_chance(mended: int, spoilt: int) -> float:
    """The chance of so uneven a division, either way, were each sample as likely to be mended as spoilt."""
    both, fewer = mended + spoilt, min(mended, spoilt)
    return min(1.0, 2 * sum(comb(both, k) for k in range(fewer + 1)) / 2**both)


def lines(facts: PanelFacts) -> list[Line]:
    """Measures down; generalist, panel and students across."""
    rows, of = facts.rows, facts.rows[0]

    def scores(label: str, unit: str, values: Sequence[float], digits: int, scale: float = 1) -> Line:
        return Line(label, unit, [Cell(f"{scale * x:.{digits}f}" if x == x else MISSING) for x in values])

    def cost(label: str, values: Sequence[float | None]) -> Line:
        return Line(label, "", [Cell() if x is None else Cell(compact(x), share=_share(x, values[0])) for x in values])

    return [
        scores("Accuracy", "%", [row.accuracy for row in rows], 2, 100),
        scores("Accuracy given the group", "%", [row.conditional for row in rows], 2, 100),
        Line("Errors", f"of {facts.examples:,}", [Cell(f"{row.errors:,}") for row in rows]),
        scores("NLL", "nats", [row.nll for row in rows], 3),
        scores("ECE", "%", [row.ece for row in rows], 2, 100),
        cost("Parameters", [row.parameters for row in rows]),
        cost("FLOPs an image", [row.flops for row in rows]),
        Line(
            "Latency", "ms, batch 1",
            [
                Cell() if row.latency_ms is None
                else Cell(milliseconds(row.latency_ms), share=_share(row.latency_ms, of.latency_ms))
                for row in rows
            ],
        ),
    ]  # fmt: skip


def _share(value: float, reference: float | None) -> str:
    return ratio(value, reference) if reference and value != reference else ""


def shown_map(covariance: Matrix) -> tuple[Matrix, bool]:
    """The covariance scaled to [-1, 1] for the eye, and whether cells are blocks of classes.

    Entries are divided by the classes' deviations, as variances differ by orders of magnitude, and the diagonal, 1 for
    every class, is left out; the largest left is 1. The root keeps small ones visible.
    """
    matrix = np.nan_to_num(np.array(covariance, dtype=float))
    deviation = np.sqrt(np.clip(np.diag(matrix), 0, None))
    outer = np.outer(deviation, deviation)
    scaled = np.divide(matrix, outer, out=np.zeros_like(matrix), where=outer > 0)
    np.fill_diagonal(scaled, 0)
    blocks = len(scaled) > _SIDE
    if blocks:
        edges = np.linspace(0, len(scaled), _SIDE + 1).astype(int)[:-1]
        sizes = np.diff([*edges, len(scaled)])
        sums = np.add.reduceat(np.add.reduceat(scaled, edges, 0), edges, 1)
        scaled = sums / np.outer(sizes, sizes)
    rooted = np.sign(scaled) * np.sqrt(np.abs(scaled) / (np.abs(scaled).max() or 1))
    return [[round(x, 3) for x in row] for row in rooted.tolist()], blocks


def change(cover: Cover) -> str:
    """The relative change of accuracy, as `+3.4%`."""
    if cover.change is None:
        return MISSING
    return f"{signed(100 * cover.change, fixed=True)}%"
