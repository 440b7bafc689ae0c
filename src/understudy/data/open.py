"""`open_source`: whatever a user calls their data, as sources."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from understudy.data.arrays import array_source, open_dataset, open_modalities
from understudy.data.frames import FRAMES, open_frames
from understudy.data.gather import Listed, gather
from understudy.data.hub import open_hub
from understudy.data.named import open_named
from understudy.data.named_sets import NAMED
from understudy.data.nyu import open_nyu
from understudy.data.pairs import pair_up
from understudy.data.records import printable
from understudy.data.shards import is_pattern, list_shards, tars_in
from understudy.data.source import Source, Splits
from understudy.data.table import list_csv, list_parquet, parquet_files
from understudy.data.tree import list_tree
from understudy.errors import UnderstudyError, nearest


def open_source(
    data: object,
    *,
    root: Path | None = None,
    download: bool = False,
    size: int | None = None,
    seed: int = 0,
    pairs: Mapping[str, str] | None = None,
) -> Splits:
    """Open a data set.

    Args:
        data: one of
            a name from `NAMED` ("digits", "mnist", "cifar100", ...; write "./mnist" for a folder so called);
            a folder of class folders, of train/ and test/ (or val/) with class folders, or of unlabelled
            images; a .zip of such; a .csv with the columns path, label and optionally split; a .parquet
            file, or a folder of them, in the Hugging Face layout; a .tar, a folder of them or a pattern such as
            shards-{000..127}.tar, in the WebDataset layout; "hf:name" or "hf:name:configuration";
            the NYU-Depth v2 labelled file (.mat); a folder of frames (see `understudy.data.frames`);
            a map-style `torch.utils.data.Dataset`; a pair (inputs, targets) of tensors or arrays; a dict of
            paired arrays, one a modality, with or without "targets";
            a `Source` or `Splits`, which is passed through.
        root: where named sets lie or are downloaded to; $UNDERSTUDY_DATA, else ./data, by default.
        download: whether a named set or one of the hub may be fetched.
        size: the side of the square that images are brought to; by default 224 where their sizes differ.
        seed: of the division of a set that has no test part of its own, about 80 to 20 within each class.
        pairs: for files, the same samples in other modalities, by name: a folder, zip or table (see `pair_up`).

    Ids are positions for arrays, named sets and parquet, hashes of the file's own relative path for folders, zips
    and CSVs, and of the shard's name and the sample's key for tars, so that adding a file changes no other's id, nor
    the part it falls to.

    Raises:
        UnderstudyError: for anything that cannot be opened, saying what would mend it.
    """
    if size is not None and size < 1:
        raise UnderstudyError(f"the image size must be at least 1 pixel, not {size}")
    if isinstance(data, str | os.PathLike):
        opened = _open_named_or_path(data, root=root, download=download, size=size, seed=seed)
        if isinstance(opened, Listed):
            return gather(pair_up(opened, pairs) if pairs else opened, size)
    else:
        opened = _open_object(data, size)
    if pairs:
        raise UnderstudyError(
            f"{opened.train.name} is no folder, zip or table, so --pair {next(iter(pairs))} cannot be matched with it "
            "by name; give files, or in Python a dict of arrays"
        )
    return opened


def _open_object(data: object, size: int | None) -> Splits:
    match data:
        case Splits():
            return data
        case Source():
            return Splits(data)
        case Dataset():
            return open_dataset(data, size=size)
        case (Tensor() | np.ndarray(), Tensor() | np.ndarray() | list()):
            return Splits(array_source("the pair of arrays", data[0], data[1]))
        case dict():
            return open_modalities(data)
    raise UnderstudyError(
        f"data cannot be opened from a {type(data).__name__}; give a name, a path, a map-style torch Dataset, "
        "a pair of arrays (inputs, targets) or a dict of them"
    )


def _open_named_or_path(
    data: str | os.PathLike[Any], *, root: Path | None, download: bool, size: int | None, seed: int
) -> Splits | Listed:
    if isinstance(data, str) and data.startswith("hf:"):
        return open_hub(data, download=download, size=size, seed=seed)
    if isinstance(data, str) and data.lower() in NAMED:
        return open_named(data.lower(), root=root, download=download, size=size, seed=seed)
    path = Path(os.fsdecode(data)).expanduser()
    if (path / FRAMES).is_file():
        return open_frames(path)
    if is_pattern(path) or (path.is_dir() and tars_in(path)):
        return list_shards(path, seed=seed)
    if path.is_dir():
        return list_parquet(path, seed=seed) if parquet_files(path) else list_tree(path, seed=seed)
    if path.is_file():
        if path.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
            return list_shards(path, seed=seed)
        match path.suffix.lower():
            case ".zip":
                return list_tree(path, seed=seed)
            case ".csv" | ".tsv":
                return list_csv(path, seed=seed)
            case ".parquet":
                return list_parquet(path, seed=seed)
            case ".mat":
                return open_nyu(path, size=size, seed=seed)
        raise UnderstudyError(
            f"{printable(str(path))} is no kind of data set; give a folder, or a .zip, .csv, .parquet or .tar file"
        )
    word = printable(os.fsdecode(data))
    hint = nearest(word, NAMED) if word.isprintable() and os.sep not in word else "; check the path"
    raise UnderstudyError(f"there is no folder, file or named data set {word!r}{hint}")
