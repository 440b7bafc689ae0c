"""Paths in options: which options have them, and how a page shows them, without what is particular to a machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from understudy.config.options import Options, parse_pairs

S = TypeVar("S", bound=Options)

PLACES = (
    "data", "data_root", "subset", "transfer_set", "model", "student", "teacher", "targets", "backbone", "generalist",
    "pair",
)  # fmt: skip
"""The options that may hold a path, or a name with a path in it; those of the last are after a "="."""
_BIT_WEIGHTS = re.compile(r"(bit:)(.+\.npz)((?:\?.*)?)")
_ABSOLUTE = r"(?:/(?!/)|[A-Za-z]:[\\/]|\\\\)"
_PATH = re.compile(rf"(?:^|(?<=[=:])){_ABSOLUTE}[^?&]*")  # in depth=/maps, bit:/R50.npz?norm=bn, --run=/runs/a


def shown(name: str) -> str:
    """A name, of data or of a model, with the paths in it relative to the working directory, or else only their ends.

    >>> shown("/home/me/photos"), shown("timm:resnet18?weights=/home/me/a.pth&drop_rate=0.1"), shown("runs/teacher")
    ('photos', 'timm:resnet18?weights=a.pth&drop_rate=0.1', 'runs/teacher')
    >>> shown("/home/me/runs/teacher/models/model-0.safetensors")
    'teacher/models/model-0.safetensors'
    """
    return _PATH.sub(lambda match: _end(match[0]), name)


def _end(path: str) -> str:
    here = str(Path.cwd())
    if path.startswith(f"{here}/") and here != "/":
        return path[len(here) + 1 :] or "."
    parts = [part for part in re.split(r"[\\/]", path) if part]
    if len(parts) > 2 and parts[-2] == "models":  # a run's weights file, whose name alone says little
        return "/".join(parts[-3:])
    return parts[-1] if parts else "."


def places(options: Mapping[str, Any]) -> Iterator[str]:
    """The absolute paths that plain options hold, as they were given."""
    for name in PLACES:
        value = options.get(name)
        for text in value if isinstance(value, (list, tuple)) else [value]:
            yield from _PATH.findall(text) if isinstance(text, str) else ()


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Plain options with their paths as `shown`."""

    def change(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [change(one) for one in value]
        return shown(value) if isinstance(value, str) else value

    return {name: change(value) if name in PLACES else value for name, value in options.items()}


def with_files(options: S, change: Callable[[str, str], str]) -> S:
    """The same options with other names of files.

    Args:
        change: an option and a name in it -> the new name.

    >>> from understudy.config.recipe import DistillRecipe
    >>> recipe = DistillRecipe(data="photos", teacher=("a", "b"), student="mlp:8", pair=("depth=maps",))
    >>> there = with_files(recipe, lambda option, name: name if option == "student" else f"/home/{name}")
    >>> there.data, there.teacher, there.student, there.pair
    ('/home/photos', ('/home/a', '/home/b'), 'mlp:8', ('depth=/home/maps',))
    """

    def renamed(option: str, text: str) -> str:
        start, file, end = match.groups() if (match := _BIT_WEIGHTS.fullmatch(text)) else ("", text, "")
        return start + change(option, file) + end if file else text

    new: dict[str, Any] = {}
    for option in PLACES[:-1]:
        value = getattr(options, option, None)
        if isinstance(value, str):
            new[option] = renamed(option, value)
        elif isinstance(value, tuple):
            new[option] = tuple(renamed(option, one) for one in value)
    if pairs := parse_pairs(getattr(options, "pair", ())):
        new["pair"] = tuple(f"{modality}={change('pair', path)}" for modality, path in pairs.items())
    return options.model_copy(update={name: value for name, value in new.items() if value != getattr(options, name)})
