"""The strings in facts as they are shown: names are not to be trusted, and a page is for others to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from understudy.config.options import Options
from understudy.config.places import places, shown, shown_options
from understudy.config.yaml import dumped
from understudy.escaping import printable
from understudy.evaluation.facts import Facts

F = TypeVar("F", bound=Facts)


def for_terminal(facts: F) -> F:
    """Facts with control characters as escapes."""
    return _changed(facts, lambda _, text: printable(text))


def for_page(facts: F, folder: Path, options: Options) -> F:
    """Facts with control characters as escapes, and without absolute paths of the machine that they were made on.

    Args:
        folder: of the page.
        options: of what was run; the paths in them may be part of any sentence.
    """
    paths = {*places(options.model_dump()), str(folder.resolve()), str(folder.absolute())}
    ends = {path: shown(path) for path in paths if len(Path(path).parts) > 1}
    ends |= {f"{base}/": short for base, short in ((Path.cwd(), ""), (Path.home(), "~/")) if len(base.parts) > 1}
    alternatives = "|".join(map(re.escape, sorted(ends, key=len, reverse=True)))
    known = re.compile(rf"(?<![\w./-])(?:{alternatives})(?:(?<=/)|(?![\w-]))")

    def without_paths(text: str) -> str:
        return known.sub(lambda match: ends[match[0]], text) if ends else text

    def change(name: str, text: str) -> str:
        match name:
            case "recipe_yaml":
                return dumped(shown_options(yaml.safe_load(text))) if text else ""
            case "command" | "data" | "model" | "backbone":
                text = shown(text)
        return printable(without_paths(text))

    return _changed(facts, change)


def _changed(facts: F, change: Callable[[str, str], str]) -> F:
    """Facts with each string changed, by the name of its field and its text."""

    def visit(name: str, value: Any) -> Any:
        match value:
            case str():
                return change(name, value)
            case [float() | int(), *_]:  # a row of a matrix
                return value
            case list() | tuple():
                return [visit(name, one) for one in value]
            case Mapping():
                return {
                    key: visit("data" if (name, key) == ("data", "name") else key, one) for key, one in value.items()
                }
        return value

    return type(facts).model_validate(visit("", facts.model_dump()))
