"""`open_source`: whatever a user calls their data, as sources."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from understudy.data.arrays import array_source, open_dataset
from understudy.data.hub import open_hub
from understudy.data.named import NAMED, open_named
from understudy.data.records import printable
from understudy.data.source import Source, Splits
from understudy.data.table import open_csv, open_parquet, parquet_files
from understudy.data.tree import open_folder, open_zip
from understudy.errors import UnderstudyError, nearest


def open_source(
    data: object,
    *,
    root: Path | None = None,
    download: bool = False,
    size: int | None = None,
    seed: int = 0,
) -> Splits:
    """Open a data set.

    Args:
        data: one of
            a name from `NAMED` ("digits", "mnist", "cifar100", ...; write "./mnist" for a folder so called);
            a folder of class folders, of train/ and test/ (or val/) with class folders, or of unlabelled
            images; a .zip of such; a .csv with the columns path, label and optionally split; a .parquet
            file, or a folder of them, in the Hugging Face layout; "hf:name" or "hf:name:configuration";
            a map-style `torch.utils.data.Dataset`; a pair (inputs, targets) of tensors or arrays;
            a `Source` or `Splits`, which is passed through.
        root: where named sets lie or are downloaded to; $UNDERSTUDY_DATA, else ./data, by default.
        download: whether a named set or one of the hub may be fetched.
        size: the side of the square that images are brought to; by default 224 where their sizes differ.
        seed: of the division of a set that has no test part of its own, about 80 to 20 within each class.

    Ids are positions for arrays, named sets and parquet, and hashes of the file's own relative path for
    folders, zips and CSVs, so that adding a file changes no other's id, nor the part it falls to.

    Raises:
        UnderstudyError: for anything that cannot be opened, saying what would mend it.
    """
    if size is not None and size < 1:
        raise UnderstudyError(f"the image size must be at least 1 pixel, not {size}")
    match data:
        case Splits():
            return data
        case Source():
            return Splits(data)
        case Dataset():
            return open_dataset(data, size=size)
        case (Tensor() | np.ndarray(), Tensor() | np.ndarray() | list()):
            return Splits(array_source("the pair of arrays", data[0], data[1]))
        case str() | os.PathLike():
            return _open_named_or_path(data, root=root, download=download, size=size, seed=seed)
    raise UnderstudyError(
        f"data cannot be opened from a {type(data).__name__}; give a name, a path, a map-style torch Dataset "
        "or a pair of arrays (inputs, targets)"
    )


def _open_named_or_path(
    data: str | os.PathLike[Any], *, root: Path | None, download: bool, size: int | None, seed: int
) -> Splits:
    if isinstance(data, str) and data.startswith("hf:"):
        return open_hub(data, download=download, size=size, seed=seed)
    if isinstance(data, str) and data.lower() in NAMED:
        return open_named(data.lower(), root=root, download=download, size=size, seed=seed)
    path = Path(os.fsdecode(data)).expanduser()
    if path.is_dir():
        opener = open_parquet if parquet_files(path) else open_folder
        return opener(path, size=size, seed=seed)
    if path.is_file():
        match path.suffix.lower():
            case ".zip":
                return open_zip(path, size=size, seed=seed)
            case ".csv" | ".tsv":
                return open_csv(path, size=size, seed=seed)
            case ".parquet":
                return open_parquet(path, size=size, seed=seed)
        raise UnderstudyError(
            f"{printable(str(path))} is no kind of data set; give a folder, or a .zip, .csv or .parquet file"
        )
    word = printable(os.fsdecode(data))
    hint = nearest(word, NAMED) if word.isprintable() and os.sep not in word else "; check the path"
    raise UnderstudyError(f"there is no folder, file or named data set {word!r}{hint}")
