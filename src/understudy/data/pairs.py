"""Pairs: the same samples in another modality, matched by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from understudy.data.gather import Headed, Listed, pair_key
from understudy.data.records import printable
from understudy.data.table import csv_pairs, parquet_files, parquet_pairs
from understudy.data.tree import list_images
from understudy.errors import UnderstudyError
from understudy.signals import ASPECTS


def pair_up(listed: Listed, pairs: Mapping[str, str]) -> Listed:
    """Give every sample its record in each of some modalities.

    Args:
        pairs: modality -> a folder or zip, whose images are matched by relative path without the suffix; a CSV
            with the column path, matched in the same way, and one of the modality's name, with paths relative to
            the table; or parquet files with such a column of images, matched by position.

    Raises:
        UnderstudyError: a sample without a partner, or rows without a sample.
    """
    parts = dict(listed.parts)
    for modality, place in pairs.items():
        if modality in (*ASPECTS, "image"):
            raise UnderstudyError(
                f"a pair cannot be called {modality}, as that is seen in the images themselves; name it otherwise, or "
                "give the images as DATA and their partners as --pair depth=..."
            )
        partners = _partners(modality, place)
        keys = [key for records in parts.values() for key in records.keys]
        lonely = [key for key in keys if key not in partners]
        if lonely:
            raise UnderstudyError(
                f"{len(lonely):,} of the {len(keys):,} samples of {listed.name} have no {modality} among the "
                f"{len(partners):,} in {place}, {printable(lonely[0])!r} first; give each one, of the same name"
            )
        parts = {
            part: replace(records, pairs={**records.pairs, modality: [partners[key] for key in records.keys]})
            for part, records in parts.items()
        }
    return replace(listed, parts=parts)


def _partners(modality: str, place: str) -> Mapping[str, Headed]:
    """Records by the keys of the samples that they belong to."""
    path = Path(place).expanduser()
    if not path.exists():
        raise UnderstudyError(f"there is no folder or file {place} to pair as {modality}; check the path")
    if path.suffix.lower() in (".csv", ".tsv"):
        return csv_pairs(path, modality)
    if path.suffix.lower() == ".parquet" or (path.is_dir() and parquet_files(path)):
        return parquet_pairs(path, modality)
    if path.is_file() and path.suffix.lower() != ".zip":
        raise UnderstudyError(
            f"{place} cannot be paired as {modality}; give a folder, or a .zip, .csv or .parquet file"
        )
    tree, record = list_images(path)
    found: dict[str, Headed] = {}
    for relative in tree.images:
        key = pair_key(relative)
        if key in found:
            raise UnderstudyError(
                f"{printable(os.fspath(path))} holds two images called {printable(key)!r}, so a sample has two "
                "partners; keep one of each name"
            )
        found[key] = record(relative)
    return found
