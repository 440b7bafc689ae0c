"""Flags that several verbs share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

FLAG = Parameter(negative=())
AsJson = Annotated[bool, Parameter(name="--json", negative=())]


def whole_number(hint: Any, tokens: Sequence[Token]) -> int:
    """The value of an int flag; cyclopts would round 2.5."""
    text = tokens[0].value
    if not re.fullmatch(r"[-+]?\d{1,4000}", text):
        raise ValueError(f'write a whole number, not "{text}"')
    return int(text)


Whole = Annotated[int, Parameter(converter=whole_number)]
DataRoot = Annotated[
    str | None, Parameter(help="Folder of the named data sets; default: $UNDERSTUDY_DATA, else ./data.")
]
Download = Annotated[bool, FLAG, Parameter(help="Download a named data set that is missing.")]
Size = Annotated[
    int | None, Parameter(converter=whole_number, help="Image size in pixels; default: 224 where image sizes differ.")
]
TrustCode = Annotated[
    bool, FLAG, Parameter(help="Import the function that made the model, if it is yours (pkg.mod:fn).")
]


def default_as_typed(value: Any) -> str | None:
    """A default as help shows it: as it would be typed, and not at all where nothing is the default."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or None
    return None if value is None or value is False or value == "" else str(value)
