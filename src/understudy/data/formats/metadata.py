"""metadata.csv and metadata.jsonl in the layout of Hugging Face's `ImageFolder`: file names with their labels."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from understudy.data.formats.index import DatasetIndex, SplitIndex, SplitName, pair_key, path_ids
from understudy.data.formats.labels import LABEL_COLUMNS, check_classes, check_same_classes
from understudy.data.formats.listing import Listing
from understudy.data.formats.parts import part_folders
from understudy.data.formats.records import escape_name
from understudy.data.source import Unreadable
from understudy.errors import UnderstudyError

_FILE = "file_name"


def read_labels(name: str, listing: Listing) -> dict[str, str] | None:
    """Image -> label, by the tables of a listing; None if none has the columns file_name and label.

    Raises:
        UnderstudyError: a table cannot be read, or does not fit the images.
    """
    labels: dict[str, str] = {}
    found = False
    for table in listing.tree.tables:
        where = f"{name}/{escape_name(table)}"
        for number, row in enumerate(_rows(where, listing, table), 1):
            column = next((column for column in LABEL_COLUMNS if column in row), None)
            if column is None or _FILE not in row:
                break  # a table of something else, such as captions
            found = True
            file, label = str(row[_FILE]).strip().replace("\\", "/"), row[column]
            if isinstance(label, bool) or not isinstance(label, (int, str)) or not str(label).strip():
                raise UnderstudyError(f"{where} has {label!r} as the label in row {number}; write one class for each")
            path = unicodedata.normalize("NFC", posixpath.normpath(posixpath.join(posixpath.dirname(table), file)))
            if labels.setdefault(path, str(label).strip()) != str(label).strip():
                raise UnderstudyError(f"{name} has two labels for {escape_name(path)!r}; keep one")
    if not found:
        return None
    missing = sorted(labels.keys() - set(listing.tree.images))
    if missing:
        raise UnderstudyError(
            f"{name}: {len(missing):,} of the {len(labels):,} images in its metadata do not exist, e.g. "
            f"{escape_name(missing[0])!r}; add them, or remove their rows"
        )
    return labels


def index_metadata(name: str, listing: Listing, labels: Mapping[str, str]) -> DatasetIndex:
    """Index the images that have a label, in their parts if the top folders are such."""
    notes = list(listing.notes)
    if left_out := len(listing.tree.images) - len(labels):
        notes.append(f"{name}: left out {left_out:,} images that are not in its metadata")
    parts = {folder: split for split, folder in part_folders(name, listing.tree).items()}
    paths: dict[SplitName, list[str]] = {}
    for path in sorted(labels):
        split = parts.get(path.split("/", 1)[0]) if parts else "train"
        if split is None:
            raise UnderstudyError(
                f"{name} has {escape_name(path)!r} outside of its parts; move it into one of "
                f"{', '.join(f'{escape_name(folder)}/' for folder in sorted(parts))}"
            )
        paths.setdefault(split, []).append(path)
    if "train" not in paths:
        raise UnderstudyError(f"{name} has no labels for its training images; add them to its metadata")
    train = {labels[path] for path in paths["train"]}
    numeric = all(label.isdecimal() for label in train)
    classes = sorted(train, key=lambda label: (int(label), label) if numeric else (0, label))
    check_same_classes(name, set(labels.values()) - train)
    check_classes(name, [escape_name(c) for c in classes])
    number = {c: i for i, c in enumerate(classes)}
    splits = {
        split: SplitIndex(
            [listing.open(path) for path in files],
            path_ids(name, files),
            torch.tensor([number[labels[path]] for path in files]),
            list(map(pair_key, files)),
        )
        for split, files in paths.items()
    }
    return DatasetIndex(name, tuple(map(escape_name, classes)), splits, notes=tuple(notes))


def _rows(where: str, listing: Listing, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table, with the names of its columns in lower case."""
    try:
        with listing.open(table).stream() as stream:
            text = stream.read().decode("utf-8-sig", errors="surrogateescape")
    except Unreadable as error:
        raise UnderstudyError(f"{where} cannot be read: {error}; write it again") from error
    try:
        if table.lower().endswith(".csv"):
            rows: Iterator[Any] = csv.DictReader(io.StringIO(text, newline=""))
        else:
            rows = (json.loads(line) for line in text.splitlines() if line.strip())
        for row in rows:
            if not isinstance(row, dict):
                raise ValueError(f"{row!r} instead of an object")
            yield {str(column).strip().lower(): value for column, value in row.items() if column is not None}
    except (ValueError, csv.Error, RecursionError) as error:
        raise UnderstudyError(f"{where} is not a valid table ({error}); write it again") from error
