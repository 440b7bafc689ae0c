"""A model's name taken apart, and constructors called with its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from understudy.errors import UnderstudyError, nearest
from understudy.models.contract import InputContract

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Spec:
    """A model's name taken apart: `family:name?key=value&key=value`."""

    family: str
    name: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.family}:{self.name}"


def call(make: Callable[..., M], spec: Spec, *args: Any, **options: Any) -> M:
    """Call a model's constructor; an option it does not take is the user's mistake."""
    parameters = inspect.signature(make).parameters.values()
    if all(one.kind is not one.VAR_KEYWORD for one in parameters):
        known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
        for name in options:
            if known and name not in {one.name for one in parameters}:
                raise UnderstudyError(f"{spec} has no option {name!r}{nearest(name, known)}")
    try:
        return make(*args, **options)
    except UnderstudyError:
        raise
    except (TypeError, ValueError) as error:
        raise UnderstudyError(f"{spec} does not take these options: {error}") from error


def needs_images(spec: Spec, contract: InputContract) -> None:
    if len(contract.shape) != 3:
        raise UnderstudyError(f"{spec} reads images; the data is vectors of {contract.shape[0]}")
