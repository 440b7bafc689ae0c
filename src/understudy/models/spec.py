"""Parsed model names, and constructor calls with their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from understudy.errors import UnderstudyError, nearest

M = TypeVar("M", bound=nn.Module)


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
    except UnderstudyError:
        raise
    except (TypeError, ValueError) as error:
        raise UnderstudyError(f"{spec} does not accept these options: {error}") from error
