"""What a notebook shows of some facts: the headline and the terminal's table."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from understudy.config.options import Options
from understudy.evaluation.facts import Facts
from understudy.reporting import console
from understudy.reporting.finding import finding
from understudy.reporting.text import for_page
from understudy.terminal import as_html

_WIDTH = 100  # characters
_PRE = '<pre style="line-height:1.35;overflow-x:auto">{code}</pre>'


def snippet(facts: Facts, folder: Path) -> str:
    """A piece of HTML.

    Args:
        folder: that the facts are of.
    """
    said = finding(for_page(facts, folder, Options()))
    head = Markup("<p><strong>{}</strong><br>{}{}</p>").format(
        said.verdict, said.sentence, Markup("<br><small>{}</small>").format(said.evidence) if said.evidence else ""
    )
    return head + Markup(as_html(console(facts), _WIDTH, _PRE))
