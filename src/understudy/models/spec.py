"""Parsed model names, and constructor calls with their options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from understudy.errors import UnderstudyError, nearest

M = TypeVar("M", bound=nn.Module)
_LARGEST = 65_536  # of an option: more is a slip, or a file that would exhaust the memory


@dataclass(frozen=True)
class Spec:
    """A parsed model name: `family:name?key=value&key=value`."""

    family: str
    name: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.family}:{self.name}"


def call(constructor: Callable[..., M], spec: Spec, *args: Any, **options: Any) -> M:
    """Call a model's constructor; an option that it does not accept is a user error."""
    parameters = inspect.signature(constructor).parameters.values()
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
        known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        for name in options:
            if known and name not in {parameter.name for parameter in parameters}:
                raise UnderstudyError(f"{spec} has no option {name!r}{nearest(name, known)}")
    try:
        return constructor(*args, **options)
    except (UnderstudyError, OSError):  # huggingface_hub's errors of the network are ValueErrors too
        raise
    except (TypeError, ValueError, AssertionError, LookupError, AttributeError, ZeroDivisionError) as error:
        raise UnderstudyError(f"{spec} does not accept these options: {error}") from error


def check_options(spec: Spec, allowed: Collection[str], hints: dict[str, str]) -> None:
    """Raise unless all options are allowed and have plain values: what else a library takes may name files or code.

    Args:
        hints: what to do instead, for options that are not allowed.

    >>> check_options(Spec("timm", "resnet18", {"drop_rate": 0.1}), {"drop_rate"}, {})
    """
    for name, value in spec.options.items():
        if name in hints:
            raise UnderstudyError(f"{spec} takes no option {name!r}; {hints[name]}")
        if name not in allowed:
            raise UnderstudyError(f"{spec} has no option {name!r}{nearest(name, allowed)}")
        plain = isinstance(value, bool | float) or (isinstance(value, int) and abs(value) <= _LARGEST)
        if not plain and not (isinstance(value, str) and re.fullmatch(r"[\w.+-]{1,40}", value)):
            raise UnderstudyError(f"option {name!r} of {spec} must be a number, true, false or a word, not {value!r}")
