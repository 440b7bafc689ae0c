"""The page of transfers from few examples: the median and spread over draws."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup
from rich.text import Text

from understudy.evaluation.facts import FewShotFacts, ShotResult
from understudy.reporting.figures import COLORS, Panel, panel, shots_axis
from understudy.reporting.table import Renderables, left, right, table
from understudy.reporting.template import fill
from understudy.reporting.wording import MISSING, percent

_HEADS = ("shots", "examples", "median", "lowest", "highest", "all draws")


def render(facts: FewShotFacts, folder: Path) -> str:
    """The page as one string of HTML."""
    return fill(
        "few_shots", facts.name, "few-shot transfer", facts.command, [facts.data, facts.backbone],
        heads=_HEADS, rows=[_cells(result) for result in facts.results], pictures=pictures(facts),
    )  # fmt: skip


def pictures(facts: FewShotFacts) -> list[Panel]:
    """Accuracy against examples per class: each draw, and the median; nothing for fewer than two numbers of shots."""
    shown = sorted((one for one in facts.results if one.accuracies and one.shots), key=lambda one: one.shots)
    return [Panel("Accuracy, %, against examples per class", _picture(shown))] if len(shown) > 1 else []


def _picture(shown: list[ShotResult]) -> Markup:
    color, shots = COLORS["distilled"], [one.shots for one in shown]
    with panel("shots", "Test accuracy against examples per class, each draw and the median", 3.2) as (ax, svg):
        for one in shown:
            low, high = one.spread or (0.0, 0.0)
            ax.vlines(one.shots, 100 * low, 100 * high, color=color, linewidth=1.6, alpha=0.45)
            ax.plot([one.shots] * len(one.accuracies), [100 * x for x in one.accuracies], "o", color=color,
                    markersize=6, alpha=0.45, mew=0)  # fmt: skip
        ax.plot(shots, [100 * (one.median or 0.0) for one in shown], "-D", color=color, markersize=7.5, linewidth=2)
        shots_axis(ax, shots, 0.08)
    return svg()


def console(facts: FewShotFacts) -> Renderables:
    """The table of the page."""
    caption = f"{facts.backbone} on {facts.data}: test accuracy"
    made = table(*map(right, _HEADS[:-1]), left(_HEADS[-1], wrap=True), caption=caption)
    for result in facts.results:
        made.add_row(*map(Text, _cells(result)))
    return [made]


def _cells(result: ShotResult) -> tuple[str, ...]:
    shown = [
        MISSING if accuracy is None else percent(accuracy, 2)
        for accuracy in (result.median, *(result.spread or (None, None)))
    ]
    draws = " ".join(f"{100 * accuracy:.1f}" for accuracy in result.accuracies) or MISSING
    return (f"{result.shots:,}", f"{result.examples:,}", *shown, draws)
