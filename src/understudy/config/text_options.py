"""Options of constructors as text: `dropout=0.5&batchnorm=true` of a model, `weight=0.8,dim=64` of an objective."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from understudy.config.yaml import read_scalar
from understudy.errors import UnderstudyError, nearest

_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", NoneType: "empty"}


def parse_options(listed: str, separators: str, whole: str) -> dict[str, Any]:
    """Values by name, each a YAML scalar.

    Args:
        whole: what they are the options of, for the message.

    Raises:
        UnderstudyError: an option without a name or a value, or one that is named twice.

    >>> parse_options("dropout=0.5&batchnorm=true", "&,", "mlp:8x1")
    {'dropout': 0.5, 'batchnorm': True}
    """
    options: dict[str, Any] = {}
    for pair in filter(None, re.split(f"[{separators}]", listed)):
        name, equals, value = pair.partition("=")
        if not equals:
            raise UnderstudyError(f"option {pair!r} of {whole!r} has no value; write {name}=VALUE")
        if not name.isidentifier() or name in options:
            fault = "stands there twice; keep one" if name in options else "has no name; write NAME=VALUE"
            raise UnderstudyError(f"option {pair!r} of {whole!r} {fault}")
        try:
            options[name] = read_scalar(value)
        except ValueError as error:
            raise UnderstudyError(f"option {name} of {whole!r} cannot be read: {error}") from None
    return options


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of a function that text can set, with their types: those with a default, of a plain type."""
    hints = get_type_hints(function)
    optional = [one.name for one in inspect.signature(function).parameters.values() if one.default is not one.empty]
    return {name: hints[name] for name in optional if any(map(_plain, _parts(hints[name])))}


def check_options(options: Mapping[str, Any], hints: Mapping[str, Any], who: str, *others: str) -> None:
    """Check options by name and type.

    Args:
        hints: the types of the known ones.
        who: takes them.
        others: further names that it knows.

    Raises:
        UnderstudyError: an unknown name, or a value of another type.
    """
    for name, value in options.items():
        if name not in hints:
            raise UnderstudyError(f"{who} has no option {name!r}{nearest(name, {*hints, *others})}")
        if not any(_fits(value, part) for part in _parts(hints[name])):
            words = [_words(part) for part in _parts(hints[name]) if _words(part)]
            raise UnderstudyError(f"{who}: {name} must be {' or '.join(words)}; it is {value!r}")


def _parts(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(part for one in get_args(hint) for part in _parts(one))
    return (hint,)


def _plain(kind: Any) -> bool:
    return get_origin(kind) is Literal or (kind in _WORDS and kind is not NoneType)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return kind in _WORDS and type(value) is kind


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        words = [str(word) for word in get_args(kind)]
        return f"one of {', '.join(words)}" if len(words) > 1 else repr(*words)
    return _WORDS.get(kind, "")
