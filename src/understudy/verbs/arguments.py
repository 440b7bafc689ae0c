"""What the verbs share: from a caller's arguments to a configuration, and where the results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from understudy.config.options import Options
from understudy.config.recipe import Recipe
from understudy.config.yaml import checked
from understudy.data import Source
from understudy.errors import UnderstudyError
from understudy.files import new_folder
from understudy.pipeline.run_data import Overrides
from understudy.runs.collection import RunCollection
from understudy.runs.run import Run
from understudy.runs.targets import TargetsFolder

C = TypeVar("C", bound=Options)
Data = object
"""Whatever `understudy.open_source` opens: a name, a path, a Dataset, a pair of arrays or a dict of paired ones."""
Model = str | Path | nn.Module
"""A model's name, a run folder or a weights file to start from, or a module."""


@dataclass(frozen=True)
class Plan:
    """What a verb would run.

    Attributes:
        recipes: by the name of each run.
        overrides: objects in place of names.
        notes: what the user should know, in sentences.
    """

    recipes: Mapping[str, Recipe]
    overrides: Overrides = field(default_factory=Overrides)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where results go.

    Attributes:
        run: the folder; a new one under runs/ where None.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        command: the command line, for the page; empty for Python.
    """

    run: Path | None = None
    overwrite: bool = False
    command: tuple[str, ...] = ()

    def at(self, folder: Path) -> Place:
        """The same in another folder, which holds nothing."""
        return Place(folder, False, self.command)


def place(run: str | Path | None, overwrite: bool, command: tuple[str, ...] = ()) -> Place:
    """Where results go: `Place` of a folder as a user wrote it.

    Raises:
        UnderstudyError: no folder can be made there, or it holds targets.
    """
    folder = None if run is None else new_folder(run, "the --run folder")
    if folder is not None and TargetsFolder(folder).exists:
        raise UnderstudyError(f"{folder} holds targets; choose another --run folder")
    return Place(folder, overwrite, command)


def check_whole(name: str, value: Any, least: int = 1, most: int = 10**9) -> None:
    """Check an argument that is not in a schema.

    Raises:
        UnderstudyError: it is no whole number of this range.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UnderstudyError(f"{name} must be a whole number from {least:,} to {most:,}, not {value!r}")


def configure(schema: type[C], options: Mapping[str, Any], **arguments: Any) -> C:
    """A verb's configuration from its arguments, objects by their names, and its options."""
    named = {name: name_of(value) for name, value in arguments.items() if value is not None}
    verb = str(schema.model_fields["kind"].default)
    return checked(schema, named | dict(options), verb)


def name_of(value: Any) -> Any:
    """What a recipe calls an argument: a path as text, an object by its own name or its type's."""
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, Source):
        return value.name
    if isinstance(value, (list, tuple)) and all(isinstance(one, (str, Path, nn.Module)) for one in value):
        return [name_of(one) for one in value]
    return type(value).__name__


def given(value: Any) -> Any | None:
    """An argument that is an object, not a name."""
    return None if isinstance(value, (str, Path)) else value


def module(value: Any) -> nn.Module | None:
    return value if isinstance(value, nn.Module) else None


def listed(one_or_more: Any) -> list[Any]:
    """One value, several or none, as a list."""
    if one_or_more is None:
        return []
    return (
        list(one_or_more) if isinstance(one_or_more, Sequence) and not isinstance(one_or_more, str) else [one_or_more]
    )


def page_folder(out: str | Path) -> Path:
    """The folder for a page, which need not be there yet.

    Raises:
        UnderstudyError: whatever `new_folder` raises, or it holds a run, which has a page of its own.
    """
    folder = new_folder(out, "the --out folder")
    if Run(folder).exists or RunCollection(folder).exists:
        raise UnderstudyError(f"{folder} holds a run, whose page stays; choose another --out folder")
    return folder
