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
from understudy.config.verbs import VERBS
from understudy.errors import UnderstudyError, nearest
from understudy.escaping import printable

R = TypeVar("R", bound=Options)
_LARGEST = 1_000_000  # bytes of a recipe file; ours have 2,000


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
    _check_kind(schema, values, where)
    if unnamed := [name for name in values if not isinstance(name, str)]:
        raise UnderstudyError(f"{where} has an unknown key {unnamed[0]!r}; keys are names, as in 'epochs: 30'")
    try:
        return schema.model_validate(nest(schema, values))
    except ValidationError as error:
        path, message = complaint(error)
        name = ".".join(map(str, path))
        if error.errors()[0]["type"] in ("extra_forbidden", "invalid_key"):
            name = name.removesuffix(".[key]")
            known = NESTED[str(path[0])].model_fields if len(path) > 1 else {**flat_fields(schema), **NESTED}
            raise UnderstudyError(
                f"{where} has an unknown key {name!r}{nearest(name.rpartition('.')[2], known)}"
            ) from None
        raise UnderstudyError(f"{where}: {name + ': ' if name else ''}{message}") from None


def _check_kind(schema: type[Options], values: Mapping[str, Any], where: str) -> None:
    """Check that values, if they have a kind, are for this schema."""
    kind = schema.model_fields["kind"].default if "kind" in schema.model_fields else None
    found = values.get("kind", kind)
    if found == kind:
        return
    if isinstance(found, str) and found in VERBS:
        verb = found.replace("speech-", "speech ")
        raise UnderstudyError(f"{where} is of kind {found!r}, not {kind!r}; use: understudy {verb}")
    raise UnderstudyError(f"{where} is of kind {found!r}, not {kind!r}{nearest(str(found), VERBS)}")


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
    if not isinstance(kind, str) or kind not in RECIPES:
        raise UnderstudyError(f"{where} needs a kind: one of {', '.join(RECIPES)}")
    return checked(RECIPES[str(kind)], values, where)


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a YAML file. Only plain YAML is read: a Python tag is an error, never run.

    Raises:
        UnderstudyError: there is no such file; it cannot be read, is too large, or is not YAML of names and values,
            each name once.
    """
    if path.exists() and not path.is_file():  # a device or a pipe may have no end
        raise UnderstudyError(f"the recipe {path} cannot be read: it is not a file; name a YAML file")
    try:
        if path.stat().st_size > _LARGEST:
            raise yaml.YAMLError(f"it has more than {_LARGEST:,} bytes")
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UnderstudyError(f"there is no recipe {path}; check the path") from None
    except OSError as error:
        raise UnderstudyError(f"the recipe {path} cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise UnderstudyError(f"{path} is not plain YAML: it is nested too deeply") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UnderstudyError(f"{path} is not plain YAML: {_shortened(str(error))}") from None
    except ValueError:
        raise UnderstudyError(f"{path} is not plain YAML: it has a date or a number that is none") from None
    if not isinstance(values, dict):
        raise UnderstudyError(f"{path} must hold names and values, as in 'epochs: 30'")
    return values


class _Loader(yaml.SafeLoader):
    """Plain YAML in which every name stands once, without references: a recipe needs none, and they can multiply."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"*{event.anchor} is a reference; write the value itself")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name!r} stands there twice; keep one")
        return super().construct_mapping(node, deep)


def read_scalar(text: str) -> bool | int | float | str | None:
    """The value of an option as YAML has it, with numbers such as 1e-3.

    Raises:
        ValueError: a list or a mapping, or no YAML at all.

    >>> read_scalar("true"), read_scalar("16"), read_scalar("1e-3"), read_scalar("gn+ws")
    (True, 16, 0.001, 'gn+ws')
    """
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = ()
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+|nan|[-+]?inf", text.strip()):
        return float(text)
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"{text!r} is not a single value")
    return value


def _shortened(text: str, most: int = 150) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}..."


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
