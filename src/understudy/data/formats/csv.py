"""CSV or TSV tables of image paths and labels."""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from understudy.data.formats.index import DatasetIndex, SplitIndex, SplitName, divide, pair_key, parse_split, path_ids
from understudy.data.formats.labels import LABEL_COLUMNS, PATH_COLUMNS, check_classes, check_same_classes, find_column
from understudy.data.formats.records import FileRecord, escape_name
from understudy.errors import UnderstudyError


def index_csv(path: Path, *, seed: int) -> DatasetIndex:
    """Index a table with columns path (relative to the table), label and optionally split."""
    name, folder = escape_name(os.fspath(path)), path.parent
    columns, rows = _read_rows(path)
    path_column, label_column = (find_column(name, columns, known) for known in (PATH_COLUMNS, LABEL_COLUMNS))
    paths = _paths(path, rows, path_column)
    labels = [(row[label_column] or "").strip() for row in rows]
    if "" in labels:
        raise UnderstudyError(f"{name} has no label in row {labels.index('') + 1}; label every image")
    split_column = {column.strip().lower(): column for column in columns if column}.get("split")
    by_split = None if split_column is None else _rows_by_split(name, [row[split_column] or "" for row in rows])
    train = {labels[i] for i in (range(len(rows)) if by_split is None else by_split["train"])}
    numeric = all(label.isdecimal() for label in train)
    classes = tuple(sorted(train, key=lambda label: (int(label), label) if numeric else (0, label)))
    index = {label: i for i, label in enumerate(classes)}
    check_same_classes(name, set(labels) - train)
    check_classes(name, classes)
    whole = SplitIndex(
        [FileRecord(os.fspath(folder), p) for p in paths],
        path_ids(name, paths),
        torch.tensor([index[label] for label in labels]),
        list(map(pair_key, paths)),
    )
    splits = divide(whole, seed) if by_split is None else {split: whole.subset(i) for split, i in by_split.items()}
    return DatasetIndex(name, tuple(map(escape_name, classes)), splits)


def csv_pairs(path: Path, column: str) -> dict[str, FileRecord]:
    """The images listed in one column of a table, by the key of the image in its path column."""
    columns, rows = _read_rows(path)
    name = escape_name(os.fspath(path))
    path_column, pair_column = (find_column(name, columns, known) for known in (PATH_COLUMNS, (column,)))
    keys = [pair_key(posixpath.normpath(row[path_column] or "")) for row in rows]
    return {
        key: FileRecord(os.fspath(path.parent), p) for key, p in zip(keys, _paths(path, rows, pair_column), strict=True)
    }


def _read_rows(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Columns and rows of a table."""
    name = escape_name(os.fspath(path))
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        columns = reader.fieldnames or ()
        try:
            rows = list(reader)
        except csv.Error as error:
            raise UnderstudyError(f"{name} is not a valid CSV file ({error}); write it again") from error
    if not rows:
        raise UnderstudyError(f"{name} has a header but no rows; add one row per image")
    return columns, rows


def _paths(path: Path, rows: Sequence[Mapping[str, str]], column: str) -> list[str]:
    """The files listed in a column, which must all exist."""
    paths = [posixpath.normpath(row[column] or "") for row in rows]
    missing = [p for p in paths if not (path.parent / p).is_file()]
    if missing:
        raise UnderstudyError(
            f"{escape_name(os.fspath(path))}: {len(missing):,} of {len(paths):,} listed images do not exist in "
            f"{path.parent}, e.g. {', '.join(map(escape_name, missing[:3]))}; give paths relative to the table"
        )
    return paths


def _rows_by_split(name: str, values: Sequence[str]) -> dict[SplitName, list[int]]:
    """Row indices of each split, from the values of the split column."""
    rows: dict[SplitName, list[int]] = {}
    for i, value in enumerate(values):
        split = parse_split(value.strip())
        if split is None:
            raise UnderstudyError(f"{name} has {value!r} in its split column; use train, val or test")
        rows.setdefault(split, []).append(i)
    if "train" not in rows:
        raise UnderstudyError(f"{name} has no rows with split 'train'; mark the training rows")
    return rows
