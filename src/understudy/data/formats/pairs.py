"""Paired modalities: the same samples in other files, matched by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from understudy.data.formats.csv import csv_pairs
from understudy.data.formats.folder import strip_top_folders
from understudy.data.formats.index import DatasetIndex, pair_key
from understudy.data.formats.listing import list_images
from understudy.data.formats.parquet import parquet_files, parquet_pairs
from understudy.data.formats.records import escape_name
from understudy.data.source import Record
from understudy.errors import UnderstudyError
from understudy.files import path_of
from understudy.signals import ASPECTS


def add_pairs(index: DatasetIndex, pairs: Mapping[str, str]) -> DatasetIndex:
    """Add the records of further modalities, modality -> path, to every sample, which all need a counterpart.

    A path is a folder or zip, matched by relative path without extension; a CSV with the column path, matched likewise,
    and a column named after the modality, with paths relative to the table; or parquet files with such a column of
    images, matched by position.
    """
    splits = dict(index.splits)
    for modality, path in pairs.items():
        if modality in (*ASPECTS, "image"):
            raise UnderstudyError(
                f"a paired modality cannot be named {modality}, which is derived from the images; choose another name, "
                "e.g. --pair depth=FOLDER"
            )
        available = _open_pairs(modality, path)
        keys = [key for records in splits.values() for key in records.keys]
        missing = [key for key in keys if key not in available]
        if missing:
            raise UnderstudyError(
                f"{len(missing):,} of the {len(keys):,} samples of {index.name} have no {modality} among the "
                f"{len(available):,} in {path}, e.g. {escape_name(missing[0])!r}; add files of the same names"
            )
        splits = {
            split: replace(records, pairs={**records.pairs, modality: [available[key] for key in records.keys]})
            for split, records in splits.items()
        }
    return replace(index, splits=splits)


def _open_pairs(modality: str, data: str) -> Mapping[str, Record]:
    """Records by key."""
    path = path_of(data, f"the path of --pair {modality}")
    if not path.exists():
        raise UnderstudyError(f"no folder or file {data} for --pair {modality}; check the path")
    if path.suffix.lower() in (".csv", ".tsv"):
        return csv_pairs(path, modality)
    if path.suffix.lower() == ".parquet" or (path.is_dir() and parquet_files(path)):
        return parquet_pairs(path, modality)
    if path.is_file() and path.suffix.lower() != ".zip":
        raise UnderstudyError(f"{data} is not supported for --pair {modality}; give a folder, .zip, .csv or .parquet")
    listing = strip_top_folders(list_images(path), flatten=path.is_file())
    records: dict[str, Record] = {}
    for relative in listing.tree.images:
        key = pair_key(relative)
        if key in records:
            raise UnderstudyError(f"{escape_name(os.fspath(path))} has two images {escape_name(key)!r}; keep one")
        records[key] = listing.open(relative)
    return records
