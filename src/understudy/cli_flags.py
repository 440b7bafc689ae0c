"""What several verbs are told in the same words: their flags, with their help."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Data = Annotated[
    str,
    Parameter(
        help="A set's name (see understudy datasets), a folder of class folders, a zip, a CSV, parquet or tar files."
    ),
]
DataRoot = Annotated[str | None, Parameter(help="Folder of the named sets; UNDERSTUDY_DATA, then ./data, where unset.")]
Download = Annotated[bool, Parameter(negative=(), help="Fetch a named set that is not there.")]
Size = Annotated[
    int | None, Parameter(help="Pixels a side that images are brought to; where unset, 224 if their sizes differ.")
]
