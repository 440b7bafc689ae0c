"""The comparison for the terminal: the page's numbers, aligned, and plain text when piped."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from understudy.reporting.comparison import VERSUS, measures, p_value
from understudy.reporting.contrast import contrasts, is_comparison
from understudy.reporting.facts import RunFacts
from understudy.reporting.gain import gain
from understudy.reporting.summary import ROLE_NAMES, Cell, columns, lines, own_name
from understudy.reporting.verdicts import how_tested

_STYLE = {"teacher": "default", "member": "dim", "alone": "default", "distilled": "cyan", "model": "default"}
_VERDICT = {"gain": "bold green", "loss": "bold red", "unclear": "yellow", "unproven": "yellow"}
_CONTRAST = {"better": "bold green", "worse": "bold red", "unclear": "default", "untested": "default"}


def results_table(facts: RunFacts) -> Table:
    """Measures down, models across; of several methods, the methods down and the main measures across.

    The distilled student is cyan. The share of the gap that it closed is green where the gain is clear,
    yellow where chance or a single seed could explain it, and red where distillation did harm.
    """
    if is_comparison(facts):
        return _methods_table(facts)
    rows = columns(facts)
    split = Text(f"{facts.data.name}, {facts.data.split}") if facts.data else None
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold", caption=split)
    table.caption_justify = "left"
    table.add_column("", no_wrap=True)
    for row in rows:
        header = Text(ROLE_NAMES[row.role])
        if name := own_name(row.role, row.name):
            header.append(f"\n{name}", style="not bold dim")
        table.add_column(header, justify="right", style=_STYLE[row.role])
    found = {i: gain(facts, row) for i, row in enumerate(rows) if row.role == "distilled"}
    group = None
    for line in lines(facts):
        if group not in (None, line.group):
            table.add_row()
        group = line.group
        cells = [_text(cell) for cell in line.cells]
        if group == "gain":
            for i, result in found.items():
                if result is not None:
                    cells[i].stylize(_VERDICT[result.verdict])
        table.add_row(Text(line.label).append(f"  {line.unit}", style="dim"), *cells)
    return table


_MAIN = ("Accuracy", "Errors", "Training", "Agreement", "NLL", "ECE")


def _methods_table(facts: RunFacts) -> Table:
    """Two lines a method, the second dim; a difference is green or red where it is clear. It fits 80 columns."""
    found = {id(one.row): one for one in contrasts(facts)}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", caption=Text(how_tested(facts)))
    table.caption_justify = "left"
    table.add_column("")
    shown = [line for line in measures(facts) if line.label in _MAIN or line.label.startswith(VERSUS)]
    for line in shown:
        header = Text(line.label).append(f"\n{line.unit}", style="not bold dim")
        table.add_column(header, justify="right", no_wrap=True)
    for i, row in enumerate(columns(facts)):
        cells = []
        for line in shown:
            style, beneath = "default", line.cells[i].spread
            if line.label.startswith(VERSUS) and (one := found.get(id(row))):
                style, beneath = _CONTRAST[one.verdict], "" if one.adjusted is None else f"p {p_value(one.adjusted)}"
            cells.append(Text(line.cells[i].value, style).append(f"\n{beneath}", style="not bold dim"))
        table.add_row(Text(row.name), *cells, style=_STYLE[row.role])
    return table


def _text(cell: Cell) -> Text:
    text = Text(cell.value)
    if cell.spread:
        text.append(f" {cell.spread}", style="dim")
    if cell.share:
        text.append(f"  {cell.share:>5}", style="dim")
    return text
