"""The terminal: what is printed on it is text, never markup or control sequences."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from understudy.escaping import printable

_REMIND = 5.0  # seconds


class Terminal(Console):
    """A console that prints names as they are, with control characters as escapes."""

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        kept = file is not None
        super().__init__(stderr=stderr, file=file, width=width, record=kept, markup=False, emoji=False, highlight=False)

    def say(self, line: str, style: str = "") -> None:
        """Print one line, however long."""
        self.print(Text(printable(line), style), soft_wrap=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say every few seconds that something goes on within the block."""
        done, started = Event(), time.monotonic()

        def remind() -> None:
            while not done.wait(_REMIND):
                self.say(f"{what}, {time.monotonic() - started:.0f} s", "dim")

        thread = Thread(target=remind, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text, lines=True), style)


def as_html(parts: Iterable[RenderableType], width: int, code_format: str) -> str:
    """What a terminal of so many characters would show, as HTML; `code_format` is that of rich's `export_html`."""
    terminal = Terminal(file=io.StringIO(), width=width)
    for part in parts:
        terminal.print(part)
    return terminal.export_html(inline_styles=True, code_format=code_format)


def cell(value: object, style: str = "") -> Text:
    """A name or number as the cell of a table."""
    return Text(printable(str(value)), style)
