"""The kinds of numbers and texts that options are: each finite, with sane bounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from understudy.errors import UnderstudyError
from understudy.files import path_of, text_fault


def _no_truth(value: Any) -> Any:
    """Refuse `yes`, which Python counts as 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a valid number")
    return value


def _text_of(value: Any) -> Any:
    """A path from Python as a recipe writes it."""
    return str(value) if isinstance(value, Path) else value


def _path(value: str) -> str:
    """Check a path, which is opened later, and kept as it was written."""
    try:
        path_of(value, "the path")
    except UnderstudyError as error:
        raise ValueError(str(error)) from None
    return value


def check_text(value: Any) -> None:
    """Check a text, or a list of them, that ends up in names of files and on pages."""
    for text in [value] if isinstance(value, str) else value if isinstance(value, (tuple, list)) else ():
        if isinstance(text, str) and (fault := text_fault(text)):
            raise ValueError(f"{text!r} {fault}")


def listed_names(value: Any) -> Any:
    """Distinct names, of one, of a list, or of texts with commas; what is neither is left to the schema to refuse.

    A comma before an option of a name does not end it.

    >>> listed_names("kd,crd"), listed_names(["kd", "kd,crd+kd", "dkd:beta=2,temperature=1"])
    (('kd', 'crd'), ('kd', 'crd+kd', 'dkd:beta=2,temperature=1'))
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return value
    return tuple(dict.fromkeys(name for text in names for name in re.split(r",(?!\w+=)", text) if name))


Number = BeforeValidator(_no_truth)

Count = Annotated[int, Field(ge=0, le=10**9), Number]
Positive = Annotated[int, Field(ge=1, le=10**9), Number]
Pixels = Annotated[int, Field(ge=1, le=4096), Number]
Extent = Annotated[int, Field(ge=0, le=4096), Number]
"""A distance in pixels."""
Seed = Annotated[int, Field(ge=0, lt=2**32), Number]
"""What PyTorch, NumPy and scikit-learn all take."""
Several = Annotated[int, Field(ge=1, le=1000), Number]
"""Things that exist at a time: networks, devices, processes."""
Views = Annotated[int, Field(ge=1, le=10_000), Number]
Workers = Annotated[int, Field(ge=0, le=256), Number]

Fraction = Annotated[float, Field(gt=0, le=1), Number]
Share = Annotated[float, Field(ge=0, lt=1), Number]
"""A part that is less than all, or none."""
Decay = Annotated[float, Field(gt=0, lt=1), Number]
Amount = Annotated[float, Field(ge=0, le=1e6), Number]
"""A weight, a strength, a standard deviation."""
Limit = Annotated[float, Field(gt=0, le=1e6), Number]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3), Number]
Seconds = Annotated[float, Field(ge=0, le=1e9), Number]
Degrees = Annotated[float, Field(ge=0, le=180), Number]

PathText = Annotated[str, BeforeValidator(_text_of), AfterValidator(_path)]
"""A path, or what may be one."""
