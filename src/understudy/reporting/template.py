"""Filling the templates of the pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from understudy.reporting import wording
from understudy.version import __version__

_LINE = 90  # characters of a command that are kept on one line


def fill(
    template: str,
    name: str,
    title: str,
    command: Sequence[str],
    meta: Sequence[str] = (),
    *,
    created: datetime | None = None,
    seconds: float | None = None,
    hardware: str = "",
    **values: Any,
) -> str:
    """A page as one string of HTML.

    Args:
        name: Of what is reported, shown at the top.
        title: Of the document, after the name.
        command: The arguments that reproduce the results.
        meta: Shown beside the name, before the date, duration and hardware.
    """
    return _environment().get_template(f"{template}.html.j2").render(
        values, name=name, title=title, command=command_line(command), meta=meta, created=created, seconds=seconds,
        hardware=hardware, version=__version__,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("understudy.reporting"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    for show in (wording.count, wording.percent, wording.duration, wording.signed):
        environment.filters[show.__name__] = show
    environment.filters["unbroken"] = unbroken
    return environment


def unbroken(text: str) -> Markup:
    """A sentence whose flags and p values are not broken between lines.

    >>> print(unbroken("<b> p < 0.001: try --seeds 3"))
    &lt;b&gt; <span class="unbroken">p &lt; 0.001</span>: try <span class="unbroken">--seeds</span> 3
    """
    parts = re.split(r"(--[a-z-]+|\bp [=<] [\d.]+\d)", text)
    return Markup("").join(
        Markup('<span class="unbroken">{}</span>').format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )


def command_line(words: Sequence[str]) -> str:
    r"""Arguments quoted for a shell, with a long line broken before its flags; a single item is returned as it is.

    >>> command_line(["understudy", "train", "my photos"])
    "understudy train 'my photos'"
    """
    if len(words) == 1:
        return words[0]
    line = shlex.join(words)
    if len(line) <= _LINE:
        return line
    return "".join(f" \\\n  {word}" if word.startswith("--") else f" {word}" for word in map(shlex.quote, words))[1:]
