"""The page of a panel of specialists: where they help, what they cost, and how the classes are grouped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.text import Text

from understudy.evaluation.facts import Coverage, Matrix, PanelFacts
from understudy.reporting.heatmaps import POSITIVE, png_uri
from understudy.reporting.significance import LEVEL, mcnemar
from understudy.reporting.summary import Cell, Line
from understudy.reporting.table import Renderables, aside, left, right, table
from understudy.reporting.template import fill
from understudy.reporting.wording import MISSING, Headline, Tone, compact, milliseconds, p_value, plural, ratio, signed

_NAMED = 40  # maximum number of classes whose names fit beside the rows of the map
_SIDE = 200  # cells per side of the map; more classes are averaged in blocks of neighbors


def render(facts: PanelFacts, folder: Path) -> str:
    """The page as one string of HTML."""
    covariance, blocks = shown_map(facts.covariance)
    finding = headline(facts)
    return fill(
        "panel", facts.name, finding.verdict, facts.command, [facts.data],
        created=facts.created, hardware=facts.hardware,
        facts=facts, headline=finding, lines=lines(facts), map=png_uri(covariance, 1.0, POSITIVE),
        names=facts.classes if len(facts.classes) <= _NAMED and not blocks else [], blocks=blocks,
        held=sum(group.held for group in facts.groups), change=change,
    )  # fmt: skip


def console(facts: PanelFacts) -> Renderables:
    """The tables of groups, of scores, and by the number of specialists (Hinton et al. 2015, table 4)."""
    groups = table(right("group"), right("confusion\nheld, %"), left("classes", wrap=True))
    for number, group in enumerate(facts.groups):
        groups.add_row(str(number), f"{100 * group.held:.1f}", Text(", ".join(group.classes)))
    scores = table(left(), *(right(row.name, wrap=True) for row in facts.rows))
    for line in lines(facts):
        cells = [aside(cell.value, cell.share) for cell in line.cells]
        scores.add_row(Text(line.label).append(f"  {line.unit}", style="dim"), *cells)
    heads = ("specialists that\ncover the class", "test\nexamples", "Δ top-1\ncorrect", "relative change\nof accuracy")
    cover = table(*map(right, heads))
    for one in facts.cover:
        cover.add_row(str(one.specialists), f"{one.examples:,}", f"{one.delta:+,}", change(one))
    return [groups, scores, cover]


def headline(facts: PanelFacts) -> Headline:
    """The effect of the specialists, tested over the test examples."""
    before, after = facts.row("generalist"), facts.row("panel")
    gained, p = facts.fixed - facts.regressed, mcnemar(facts.fixed, facts.regressed)
    tone: Tone
    if p >= LEVEL:
        tone, verdict = "open", "No significant effect of the specialists"
    elif gained > 0:
        tone, verdict = "good", "The specialists help"
    else:
        tone, verdict = "bad", "The specialists hurt"
    return Headline(
        tone,
        verdict,
        f"{plural(len(facts.groups), 'specialist')} change the generalist's accuracy from {100 * before.accuracy:.2f}% "
        f"to {100 * after.accuracy:.2f}%, and its accuracy given the group from {100 * before.conditional:.2f}% to "
        f"{100 * after.conditional:.2f}%.",
        f"Of {facts.examples:,} examples the panel fixes {facts.fixed:,} and regresses {facts.regressed:,}, "
        f"p {p_value(p)} by the exact McNemar test, which covers the choice of test examples but not the variation "
        "between training runs.",
    )


def lines(facts: PanelFacts) -> list[Line]:
    """Measures down; generalist, panel and students across."""
    rows = facts.rows

    def scores(label: str, unit: str, values: Sequence[float], digits: int, scale: float = 1) -> Line:
        cells = (Cell(f"{scale * x:.{digits}f}" if x == x else MISSING) for x in values)
        return Line(label, unit, "quality", tuple(cells))

    def cost(
        label: str, values: Sequence[float | None], unit: str = "", show: Callable[[float], str] = compact
    ) -> Line:
        of = values[0]
        cells = (Cell() if x is None else Cell(show(x), share=ratio(x, of) if of and x != of else "") for x in values)
        return Line(label, unit, "cost", tuple(cells))

    return [
        scores("Accuracy", "%", [row.accuracy for row in rows], 2, 100),
        scores("Accuracy given the group", "%", [row.conditional for row in rows], 2, 100),
        Line("Errors", f"of {facts.examples:,}", "quality", tuple(Cell(f"{row.errors:,}") for row in rows)),
        scores("NLL", "nats", [row.nll for row in rows], 3),
        scores("ECE", "%", [row.ece for row in rows], 2, 100),
        cost("Parameters", [row.parameters for row in rows]),
        cost("FLOPs per image", [row.flops for row in rows]),
        cost("Latency", [row.latency_ms for row in rows], "ms, batch 1", milliseconds),
    ]


def shown_map(covariance: Matrix) -> tuple[Matrix, bool]:
    """The covariance scaled to [-1, 1] for display, and whether cells are means over blocks of classes.

    Entries are divided by the standard deviations of the classes, as variances differ by orders of magnitude. The
    diagonal, 1 for every class, is set to 0. The square root makes small entries visible.
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


def change(cover: Coverage) -> str:
    """The relative change of accuracy, as in `+3.4%`."""
    return MISSING if cover.change is None else f"{signed(100 * cover.change, fixed=True)}%"
