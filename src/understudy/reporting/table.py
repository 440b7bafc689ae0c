"""Tables for the terminal: aligned, and plain text when piped."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from understudy.reporting.wording import Headline

Renderables = list[RenderableType]
_TONES = {"good": "bold green", "bad": "bold red", "open": "bold yellow", "plain": "bold"}


def left(header: str | Text = "", *, wrap: bool = False) -> Column:
    """A column of text."""
    return Column(Text.assemble(header), no_wrap=not wrap, overflow="fold")


def right(header: str | Text = "", *, style: str = "", wrap: bool = False) -> Column:
    """A column of numbers."""
    return Column(Text.assemble(header), justify="right", style=style, no_wrap=not wrap)


def table(*columns: Column, caption: str = "", gap: int = 2) -> Table:
    """A table without lines, with `gap` spaces between its columns and a caption below it."""
    made = Table(*columns, box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    made.caption, made.caption_justify = (Text(caption) if caption else None), "left"
    return made


def aside(value: str, beside: str = "") -> Text:
    """A value with a dimmed number beside it.

    >>> str(aside("81.0", "53%"))
    '81.0 53%'
    """
    return Text(value).append(f" {beside}" if beside else "", style="dim")


def sentences(found: Headline) -> Renderables:
    """A finding: its verdict and sentence in a line, its evidence in another."""
    evidence: Renderables = [Text(found.evidence)] if found.evidence else []
    return [Text(f"{found.verdict}: {found.sentence}", _TONES[found.tone]), *evidence]
