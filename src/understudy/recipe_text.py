"""A recipe as plain values and as text: from YAML and flags, checked, with what is wrong in one sentence; and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from understudy.errors import UnderstudyError, nearest
from understudy.recipe import AnyRecipe, DistillRecipe, SpecialistRecipe, TrainRecipe

R = TypeVar("R", bound=BaseModel)
_KINDS: dict[str, type[AnyRecipe]] = {"train": TrainRecipe, "distill": DistillRecipe, "specialist": SpecialistRecipe}


def recipe_from(values: dict[str, Any], where: str = "the recipe") -> AnyRecipe:
    """Check plain values against the schema; `kind` says which recipe it is."""
    if not isinstance(values, dict):
        raise UnderstudyError(f"{where} must be a mapping of names to values")
    kind = values.get("kind")
    if kind not in _KINDS:
        raise UnderstudyError(f"{where} needs a line kind: train or kind: distill")
    return checked(_KINDS[kind], values, where)


def checked(schema: type[R], values: dict[str, Any], where: str = "the recipe") -> R:
    """`schema(**values)` with pydantic's complaints put as one sentence."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = set(schema.model_fields)
            nested = schema.model_fields.get(str(first["loc"][0]))
            if len(first["loc"]) > 1 and nested is not None and isinstance(nested.default, BaseModel):
                known = set(type(nested.default).model_fields)
            hint = nearest(path.split(".")[-1], known)
            raise UnderstudyError(f"{where} has an unknown key {path!r}{hint}") from None
        raise UnderstudyError(f"{where}: {path + ': ' if path else ''}{complaint(error)[1]}") from None


def complaint(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Where the first of pydantic's complaints is, and what it says."""
    first = error.errors()[0]
    return first["loc"], re.sub("^Value error, ", "", first["msg"])


def read_yaml(path: Path) -> dict[str, Any]:
    """A recipe file's values. Only plain YAML is read: a Python tag is an error, never run."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnderstudyError(f"there is no recipe {path}") from None
    except OSError as error:
        raise UnderstudyError(f"the recipe {path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise UnderstudyError(f"{path} is not plain YAML: {line}") from None
    if not isinstance(values, dict):
        raise UnderstudyError(f"{path} must hold names and values, as in 'epochs: 30'")
    return values


def to_yaml(recipe: AnyRecipe) -> str:
    """The resolved recipe, every field, as YAML that `read_yaml` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def updated(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `changes` laid over, group by group."""
    merged = dict(values)
    for name, change in changes.items():
        old = merged.get(name)
        merged[name] = updated(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return merged
