"""`open_source`: open a dataset by name, path or object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from understudy.data.formats.arrays import array_source, open_dataset, open_modalities
from understudy.data.formats.build import build_splits
from understudy.data.formats.catalog import NAMED
from understudy.data.formats.csv import index_csv
from understudy.data.formats.folder import index_folder
from understudy.data.formats.frames import FRAMES, open_frames
from understudy.data.formats.hub import open_hub
from understudy.data.formats.index import DatasetIndex, divide
from understudy.data.formats.listing import is_class_tar
from understudy.data.formats.nyu import open_nyu
from understudy.data.formats.pairs import add_pairs
from understudy.data.formats.parquet import index_parquet, parquet_files
from understudy.data.formats.records import escape_name
from understudy.data.formats.shards import index_shards, is_pattern, tar_files
from understudy.data.formats.torchvision import open_named
from understudy.data.source import Source, Splits
from understudy.errors import UnderstudyError, nearest
from understudy.files import path_of


def _index_tar(path: Path) -> DatasetIndex:
    return index_folder(path) if is_class_tar(path) else index_shards(path)


_FILES = {
    **dict.fromkeys((".tar", ".tar.gz", ".tgz"), _index_tar),  # compressed ones are refused there
    **{".zip": index_folder, ".csv": index_csv, ".tsv": index_csv, ".parquet": index_parquet},
}

LARGEST_SIZE = 4096


def open_source(
    data: object,
    *,
    root: Path | None = None,
    download: bool = False,
    size: int | None = None,
    seed: int = 0,
    pairs: Mapping[str, str] | None = None,
) -> Splits:
    """Open a dataset.

    Args:
        data: a name in `NAMED` such as "mnist" (write "./mnist" for a folder of that name); a folder, .zip or .tar in
            the layout of torchvision's `ImageFolder`, optionally within train/ and test/ or val/, with labels in
            metadata.csv or metadata.jsonl, or of unlabeled images; a .csv with columns path, label and optionally
            split or is_valid; a .parquet file or a folder of them as written by Hugging Face Datasets; a .tar, a
            folder of them or a range such as shards-{000..127}.tar in the WebDataset format; "hf:name" or
            "hf:name:configuration" on the Hugging Face Hub; the labeled NYU-Depth v2 file (.mat); a folder of frame
            sequences (see `understudy.data.formats.frames`); a map-style `torch.utils.data.Dataset`; a tuple (inputs,
            targets) of tensors or arrays; a dict of paired arrays by modality, optionally with "targets"; or a `Source`
            or `Splits`, returned as it is.
        root: folder of built-in datasets; $UNDERSTUDY_DATA or else ./data by default.
        download: allow downloading a built-in dataset or one on the Hub.
        size: side in pixels of the square that images are resized to; 224 by default if their sizes differ.
        seed: seed of the 80/20 split of a dataset without a test split.
        pairs: for files, the same samples in other modalities: modality -> folder, zip or table (see `add_pairs`).

    Ids are positions in the split for arrays, built-in datasets and parquet files, hashes of the relative path for
    folders, zips and CSVs, and hashes of shard name and key for tars, so that adding a file changes the id of no other.
    Of labeled files and built-in datasets without a test split, a fifth is held out: exactly, with each class in
    proportion, as a function of the ids and classes alone.

    >>> splits = open_source("digits")
    >>> len(splits.train), len(splits.test), splits.train.shape, splits.train.classes[:3]
    (1438, 359, (1, 8, 8), ('0', '1', '2'))
    """
    if size is not None and not (isinstance(size, int) and 1 <= size <= LARGEST_SIZE):
        raise UnderstudyError(f"the image size must be from 1 to {LARGEST_SIZE:,} pixels, not {size!r}")
    if isinstance(data, str | os.PathLike):
        opened = _open_named_or_path(data, root=root, download=download, size=size, seed=seed)
        if isinstance(opened, DatasetIndex):
            index = divide(opened, seed)
            return build_splits(add_pairs(index, pairs) if pairs else index, size)
    else:
        opened = _open_object(data, size)
    if pairs:
        raise UnderstudyError(
            f"--pair {next(iter(pairs))} needs a folder, zip or table, and {opened.train.name} is not one; give files, "
            "or in Python a dict of arrays"
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
            return Splits(array_source("array data", data[0], data[1]))
        case dict():
            return open_modalities(data)
    raise UnderstudyError(
        f"cannot open data from {type(data).__name__!r}; give a name, a path, a map-style torch Dataset, "
        "a tuple of arrays (inputs, targets) or a dict of arrays"
    )


def _open_named_or_path(
    data: str | os.PathLike[Any], *, root: Path | None, download: bool, size: int | None, seed: int
) -> Splits | DatasetIndex:
    if isinstance(data, str) and data.startswith("hf:"):
        return open_hub(data, download=download, size=size, seed=seed)
    if isinstance(data, str) and data.lower() in NAMED:
        return open_named(data.lower(), root=root, download=download, size=size, seed=seed)
    path = path_of(os.fsdecode(data), "the data")
    if (path / FRAMES).is_file():
        return open_frames(path)
    if is_pattern(path) or (path.is_dir() and tar_files(path)):
        return index_shards(path)
    if path.is_dir():
        return index_parquet(path) if parquet_files(path) else index_folder(path)
    if path.is_file():
        if path.suffix.lower() == ".mat":
            return open_nyu(path, size=size, seed=seed)
        for suffix, index in _FILES.items():
            if path.name.lower().endswith(suffix):
                return index(path)
        raise UnderstudyError(
            f"{escape_name(str(path))} is not a supported dataset; give a folder, or a .zip, .csv, .parquet or .tar "
            "file"
        )
    name = escape_name(os.fsdecode(data))
    if path.exists():
        raise UnderstudyError(f"{name} is neither a folder nor a regular file; copy what it gives into one")
    hint = "; check the path"
    if name.isprintable() and os.sep not in name:
        hint = nearest(name, NAMED) or "; understudy datasets lists named ones"
    raise UnderstudyError(f"no folder, file or built-in dataset {name!r}{hint}")
