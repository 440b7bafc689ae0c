"""Which options name files and folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from understudy.config.options import Options, parse_pairs

S = TypeVar("S", bound=Options)

PLACES = ("data", "transfer_set", "model", "student", "teacher", "backbone", "generalist", "subset", "data_root")
"""Options that may name files, besides `pair`; in some of them names of data sets and models are possible too."""
_BIT_WEIGHTS = re.compile(r"(bit:)(.+\.npz)((?:\?.*)?)")


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
    for option in PLACES:
        value = getattr(options, option, None)
        if isinstance(value, str):
            new[option] = renamed(option, value)
        elif isinstance(value, tuple):
            new[option] = tuple(renamed(option, one) for one in value)
    if pairs := parse_pairs(getattr(options, "pair", ())):
        new["pair"] = tuple(f"{modality}={change('pair', path)}" for modality, path in pairs.items())
    return options.model_copy(update={name: value for name, value in new.items() if value != getattr(options, name)})
