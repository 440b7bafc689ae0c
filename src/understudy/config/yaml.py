"""Recipes as plain values and as text: checked, with the first mistake in one sentence; and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from understudy.config.options import NESTED, Options, flat_fields, nest
from understudy.config.recipe import RECIPES, Recipe
from understudy.errors import UnderstudyError, nearest
from understudy.escaping import printable

R = TypeVar("R", bound=Options)


def checked(schema: type[R], values: Mapping[str, Any], where: str = "the recipe") -> R:
    """A schema's instance from nested or flat values.

    Args:
        where: who gave the values, for the message.

    Raises:
        UnderstudyError: an unknown name or a wrong value; the first of them, in one sentence.

    >>> from understudy.config.recipe import TrainRecipe
    >>> checked(TrainRecipe, {"data": "digits", "model": "mlp:32x1", "lr": 0.1}).optimizer.lr
    0.1
    """
    kind = schema.model_fields["kind"].default if "kind" in schema.model_fields else None
    if values.get("kind", kind) != kind:
        raise UnderstudyError(f"{where} is of kind {values['kind']!r}, not {kind!r}; use: understudy {values['kind']}")
    try:
        return schema.model_validate(nest(schema, values))
    except ValidationError as error:
        path, message = complaint(error)
        name = ".".join(map(str, path))
        if error.errors()[0]["type"] == "extra_forbidden":
            known = NESTED[str(path[0])].model_fields if len(path) > 1 else {**flat_fields(schema), **NESTED}
            raise UnderstudyError(
                f"{where} has an unknown key {name!r}{nearest(name.rpartition('.')[2], known)}"
            ) from None
        raise UnderstudyError(f"{where}: {name + ': ' if name else ''}{message}") from None


def complaint(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Where pydantic's first complaint is, and what it says, with the wrong value where it is short."""
    first = error.errors()[0]
    message, value = re.sub("^Value error, |, (unable to|got a) .*", "", first["msg"]), first["input"]
    wrong = message.startswith("Input should") and isinstance(value, (str, int, float))
    return first["loc"], f"{message}, not {value!r}" if wrong else message


def recipe_from(values: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """A run's recipe from plain values; their `kind` names the schema."""
    if not isinstance(values, Mapping):
        raise UnderstudyError(f"{where} must be a mapping of names to values")
    kind = values.get("kind")
    if kind not in RECIPES:
        raise UnderstudyError(f"{where} needs a kind: one of {', '.join(RECIPES)}")
    return checked(RECIPES[str(kind)], values, where)


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a YAML file. Only plain YAML is read: a Python tag is an error, never run."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnderstudyError(f"there is no recipe {path}") from None
    except OSError as error:
        raise UnderstudyError(f"the recipe {path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise UnderstudyError(f"{path} is not plain YAML: {line}") from None
    if not isinstance(values, dict):
        raise UnderstudyError(f"{path} must hold names and values, as in 'epochs: 30'")
    return values


def to_yaml(options: BaseModel) -> str:
    """Every field as YAML that `read_yaml` reads back; what is a kind's own comes first."""
    values = options.model_dump(mode="json")
    names = dict.fromkeys(name for cls in type(options).__mro__ for name in vars(cls).get("__annotations__", ()))
    ordered = {name: values[name] for name in names if name in values}
    return dumped(ordered)


def dumped(values: Mapping[str, Any]) -> str:
    """Plain values as YAML that can be printed: what a terminal would obey is written as an escape of YAML."""
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return text if printable(text, lines=True) == text else yaml.safe_dump(dict(values), sort_keys=False)


def updated(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` overridden by `changes`, group by group.

    >>> updated({"optimizer": {"lr": 0.1, "clip": 1.0}}, {"optimizer": {"lr": 0.2}})
    {'optimizer': {'lr': 0.2, 'clip': 1.0}}
    """
    merged = dict(values)
    for name, change in changes.items():
        old = merged.get(name)
        merged[name] = updated(old, change) if isinstance(old, Mapping) and isinstance(change, Mapping) else change
    return merged
