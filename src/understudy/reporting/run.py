"""The page of a run: what was gained, what it costs, and how to reproduce it."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from understudy.evaluation.facts import RunFacts
from understudy.reporting import (
    comparison,
    comparison_figures,
    contrast,
    figures,
    heatmaps,
    representation,
    speech,
    summary,
    wording,
)
from understudy.reporting.bars import bars
from understudy.reporting.confusions import confusion_lists
from understudy.reporting.details import details
from understudy.reporting.gain import gain
from understudy.reporting.gallery import tile
from understudy.reporting.headline import evidence, headline, how_tested, table_note
from understudy.reporting.table import Renderables, left, right, sentences, table
from understudy.reporting.template import fill

_STYLES = {"teacher": "default", "member": "dim", "alone": "default", "distilled": "cyan", "model": "default"}
_VERDICTS = {
    "gain": "bold green", "better": "bold green",
    "loss": "bold red", "worse": "bold red",
    "unclear": "yellow", "untested": "default",
}  # fmt: skip
_MAIN = ("Accuracy", "Errors", "Training", "Agreement", "NLL", "ECE")


def render(facts: RunFacts, folder: Path) -> str:
    """The page as one string of HTML. Sections whose facts are missing are left out."""
    distilled = facts.of("distilled")
    several = contrast.is_comparison(facts)
    found = gain(facts, distilled[0]) if distilled and not several else None
    finding = headline(facts)
    lines = summary.lines(facts)
    gallery = [tile(picture, facts.classes, folder) for picture in facts.gallery]
    return fill(
        "run", facts.name, finding.verdict, facts.command, [facts.data.name] if facts.data else [],
        created=facts.created, seconds=facts.duration_seconds, hardware=facts.hardware,
        facts=facts, headline=finding, bars=bars(facts), columns=summary.columns(facts),
        lines=lines,
        asides=[any(line.cells[i].aside for line in lines) for i in range(len(facts.rows))],
        several=several, first=distilled[0] if distilled else None,
        compared=_compared(facts) if several else None,
        pairs=figures.pairs(found) if found else [], evidence=evidence(found) if found else "",
        curves=[] if several else figures.curves(facts), curve_key=figures.dashes(facts), dashes=figures.DASHES,
        confusions=confusion_lists(facts.confusions) if facts.confusions else [],
        correlations=heatmaps.section(facts), speech=speech.section(facts),
        representation=representation.section(facts.representation, folder),
        gallery=gallery,
        largest_share=max((max(p.shares.values()) for tile in gallery for p in tile.predictions), default=1) or 1,
        role_names=summary.ROLE_NAMES,
        bar_names={} if several else {role: name for role, name in summary.ROLE_NAMES.items() if role != "model"},
        definitions=_definitions(facts), **details(facts, folder),
    )  # fmt: skip


def console(facts: RunFacts) -> Renderables:
    """The table of the models, that of word errors for speech, what distillation gained, and the cautions."""
    parts: Renderables = [_methods_table(facts) if contrast.is_comparison(facts) else _table(facts)]
    if facts.speech:
        parts.append(speech.word_error_table(facts.speech))
    if facts.representation:
        parts = [representation.console_table(facts.representation)]
    gained = sentences(headline(facts)) if facts.representation or facts.of("distilled") else []
    return [*parts, *gained, *(Text(caution, "yellow") for caution in facts.cautions)]


def _compared(facts: RunFacts) -> dict[str, object]:
    """Variables of the sections that only a comparison of several methods has."""
    of, (curves_title, curves) = contrast.reference(facts), comparison_figures.curves(facts)
    return {
        "lines": comparison.measures(facts), "note": table_note(facts), "reference": contrast.title(of) if of else "",
        "differences": comparison_figures.differences(facts),
        "front": comparison_figures.front(facts), "front_note": comparison.front_note(facts),
        "curves_title": curves_title, "curves": curves, "costs": comparison.costs(facts),
    }  # fmt: skip


def _definitions(facts: RunFacts) -> dict[str, str]:
    """The definitions of the measures on the page."""
    shown = {line.label for line in summary.lines(facts)}
    if contrast.is_comparison(facts):
        shown |= {line.label for line in comparison.measures(facts)}
        tested = any(one.interval for one in contrast.contrasts(facts))
    else:
        tested = any(found.interval for row in facts.of("distilled") if (found := gain(facts, row)))
    if tested:
        shown.add("95% interval")
    return {term: text for term, text in wording.DEFINITIONS.items() if term in shown}


def _table(facts: RunFacts) -> Table:
    """Measures down, models across. The share of the gap closed is colored by the outcome of its test."""
    rows = summary.columns(facts)
    columns = [left()]
    for row in rows:
        name = summary.own_name(row.role, row.name)
        header = Text(summary.ROLE_NAMES[row.role]).append(f"\n{name}" if name else "", style="not bold dim")
        columns.append(right(header, style=_STYLES[row.role], wrap=True))
    made = table(*columns, caption=f"{facts.data.name}, {facts.data.split}" if facts.data else "", gap=3)
    gains = {i: found for i, row in enumerate(rows) if row.role == "distilled" and (found := gain(facts, row))}
    group = None
    for line in summary.lines(facts):
        if group not in (None, line.group):
            made.add_row()
        group = line.group
        cells = [_text(cell) for cell in line.cells]
        if group == "gain":
            for i, found in gains.items():
                cells[i].stylize(_VERDICTS[found.verdict])
        made.add_row(Text(line.label).append(f"  {line.unit}", style="dim"), *cells)
    return made


def _methods_table(facts: RunFacts) -> Table:
    """Methods down, the main measures across, in 80 columns; significant differences are green or red."""
    found = {id(one.row): one for one in contrast.contrasts(facts)}
    shown = [
        line for line in comparison.measures(facts) if line.label in _MAIN or line.label.startswith(comparison.VERSUS)
    ]
    heads = [Text(line.label).append(f"\n{line.unit}", style="not bold dim") for line in shown]
    made = table(left(wrap=True), *map(right, heads), caption=how_tested(facts), gap=1)
    for i, row in enumerate(summary.columns(facts)):
        cells = []
        for line in shown:
            style, below = "default", line.cells[i].spread
            if line.label.startswith(comparison.VERSUS) and (one := found.get(id(row))):
                style = "default" if one.verdict == "unclear" else _VERDICTS[one.verdict]
                below = "" if one.adjusted is None else f"p {wording.p_value(one.adjusted)}"
            cells.append(Text(line.cells[i].value, style).append(f"\n{below}", style="not bold dim"))
        made.add_row(Text(row.name), *cells, style=_STYLES[row.role])
    return made


def _text(cell: summary.Cell) -> Text:
    text = Text(cell.value)
    if cell.spread:
        text.append(f" {cell.spread}", style="dim")
    if cell.share:
        text.append(f"  {cell.share:>5}", style="dim")
    return text
