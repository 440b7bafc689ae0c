"""`understudy train` and `understudy distill`: from flags to a recipe. Loaded when asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from cyclopts import Group, Parameter
from pydantic import ConfigDict, model_validator

from understudy.cli import print_rows, show_run
from understudy.cli_flags import Data
from understudy.errors import UnderstudyError
from understudy.recipe import COMPARED, AnyRecipe, DistillRecipe, TrainRecipe
from understudy.recipe_text import checked, read_yaml, to_yaml, updated


class TrainFlags(TrainRecipe):
    """The flags of `train`. They are part of a recipe: what spans fields is checked on the whole."""

    model_config = ConfigDict(use_attribute_docstrings=False)  # they are the recipe's, and slow to find

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        return self


class DistillFlags(DistillRecipe):
    """The flags of `distill`."""

    model_config = ConfigDict(use_attribute_docstrings=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        return self


@Parameter(name="*", group=Group("Run", sort_key=2))
@dataclass(frozen=True)
class Place:
    """Where a run comes from and goes to."""

    config: Path | None = None
    """A recipe in YAML; flags are laid over its values."""
    run: Path | None = None
    """The run's folder; runs/VERB-DATA-1, -2, ... where unset."""
    overwrite: Annotated[bool, Parameter(negative=())] = False
    """Replace the run that the folder holds."""
    dry_run: Annotated[bool, Parameter(negative=())] = False
    """Print the resolved recipe, the sizes and the expected time, and train nothing."""


def train(
    data: Data = "",
    /,
    *,
    flags: Annotated[TrainFlags | None, Parameter(name="*")] = None,
    place: Place | None = None,
) -> None:
    """Train a teacher, or a baseline, on labels."""
    _carry_out(TrainRecipe, data, flags, place or Place())


def distill(
    data: Data = "",
    /,
    *,
    flags: Annotated[DistillFlags | None, Parameter(name="*")] = None,
    place: Place | None = None,
) -> None:
    """Train a student on the soft targets of one teacher or several, beside the same student trained alone."""
    _carry_out(DistillRecipe, data, flags, place or Place())


def compare(
    data: Data = "",
    /,
    *,
    flags: Annotated[DistillFlags | None, Parameter(name="*")] = None,
    place: Place | None = None,
) -> None:
    """Train a student by several methods, and alone, on the same batches, and compare them.

    It is `distill` with several methods and three seeds where nothing else is said.
    """
    _carry_out(DistillRecipe, data, flags, place or Place(), {"method": COMPARED, "seeds": 3})


def resolved(
    schema: type[AnyRecipe],
    data: str,
    flags: AnyRecipe | None,
    config: Path | None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[AnyRecipe, bool]:
    """The recipe of a command line, and whether code it names may be imported.

    The verb's own defaults come first, the file's values over them, then the flags. Code (`pkg.mod:fn`) is
    trusted only if all of it was typed: a recipe file cannot have a function imported.
    """
    verb = schema.model_fields["kind"].default
    values = {**defaults, **(read_yaml(config) if config else {})}
    kind = values.get("kind", verb)
    if kind != verb:
        raise UnderstudyError(
            f"{config} is a recipe of kind {kind!r}; this command takes kind {verb!r}"
            + (f", so use: understudy {kind} --config {config}" if kind in ("train", "distill") else "")
        )
    typed: dict[str, Any] = flags.model_dump(exclude_unset=True) if flags else {}
    if data:
        typed["data"] = data
    recipe = checked(schema, updated(values, {**typed, "kind": verb}), str(config or "the command line"))
    _require(recipe)
    return recipe, bool(_models(typed)) and set(_models(recipe.model_dump())) <= set(_models(typed))


def _models(values: dict[str, Any]) -> list[str]:
    """The models that are code, of those a recipe names."""
    from understudy.models import is_code

    named = [values.get("model"), values.get("student"), *values.get("teacher", ())]
    return [name for name in named if name and is_code(name)]


def _require(recipe: AnyRecipe) -> None:
    if not recipe.data:
        raise UnderstudyError(
            f"say what to learn from: understudy {recipe.kind} digits; `understudy datasets` lists sets"
        )
    if isinstance(recipe, TrainRecipe):
        if not recipe.model:
            raise UnderstudyError("say what to train: --model mlp:256x2; `understudy models` lists models")
        return
    if not recipe.teacher:
        raise UnderstudyError("say who teaches: --teacher runs/teacher; `understudy train` makes a teacher")
    if not recipe.student:
        raise UnderstudyError("say what to train: --student mlp:16x1; `understudy models` lists models")


def _carry_out(
    schema: type[AnyRecipe],
    data: str,
    flags: AnyRecipe | None,
    place: Place,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    recipe, trust_code = resolved(schema, data, flags, place.config, defaults)
    from understudy import api

    if place.dry_run:
        print(to_yaml(recipe))
        print_rows(api.dry_run(recipe, trust_code=trust_code).items())
        return
    show_run(
        api.run_recipe(
            recipe,
            run=place.run,
            overwrite=place.overwrite,
            trust_code=trust_code,
            command=["understudy", *sys.argv[1:]],
        )
    )
