"""CSV or TSV tables of image paths and labels."""

from __future__ import annotations

import codecs
import csv
import io
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from understudy.data.formats.index import DatasetIndex, SplitIndex, SplitName, pair_key, parse_split, path_ids
from understudy.data.formats.labels import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    check_classes,
    check_same_classes,
    check_single_labels,
    find_column,
)
from understudy.data.formats.records import FileRecord, escape_name
from understudy.errors import UnderstudyError

_MAX_BYTES = 2**29
_DELIMITERS = (",", ";", "\t", "|")
_FLAGS: Mapping[str, SplitName] = {  # columns that mark the rows of one split
    **dict.fromkeys(("is_valid", "is_val", "is_validation"), "validation"),
    "is_test": "test",
}
_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0", ""), False),
}


def index_csv(path: Path) -> DatasetIndex:
    """Index a table with the columns path (relative to the table), label and optionally split or is_valid."""
    name, folder = escape_name(os.fspath(path)), path.parent
    columns, rows = _read_rows(path)
    path_column, label_column = (find_column(name, columns, known) for known in (PATH_COLUMNS, LABEL_COLUMNS))
    paths = _paths(path, rows, path_column)
    labels = [row[label_column].strip() for row in rows]
    if "" in labels:
        raise UnderstudyError(f"{name} has no label in row {labels.index('') + 1}; label every image")
    check_single_labels(name, labels)
    by_split = _rows_by_split(name, columns, rows)
    train = {labels[i] for i in by_split["train"]}
    numeric = all(label.isdecimal() and len(label) < 100 for label in train)
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
    return DatasetIndex(
        name, tuple(map(escape_name, classes)), {split: whole.subset(chosen) for split, chosen in by_split.items()}
    )


def csv_pairs(path: Path, column: str) -> dict[str, FileRecord]:
    """The images listed in one column of a table, by the key of the image in its path column."""
    columns, rows = _read_rows(path)
    name = escape_name(os.fspath(path))
    path_column, pair_column = (find_column(name, columns, known) for known in (PATH_COLUMNS, (column,)))
    keys = [pair_key(_relative(path.parent, row[path_column])) for row in rows]
    return {
        key: FileRecord(os.fspath(path.parent), p) for key, p in zip(keys, _paths(path, rows, pair_column), strict=True)
    }


def _read_rows(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Columns and rows of a table; blank rows are left out."""
    name = escape_name(os.fspath(path))
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UnderstudyError(f"{name} is larger than {_MAX_BYTES >> 20} MiB; give parquet or tar shards")
        text = _decoded(name, path.read_bytes())
    except OSError as error:
        raise UnderstudyError(f"{name} cannot be read ({error.strerror}); check its permissions") from error
    header = text.lstrip("\r\n").split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, header), skipinitialspace=True)
    try:
        table = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UnderstudyError(f"{name} is not a valid CSV file ({error}); write it again") from error
    if not table:
        raise UnderstudyError(f"{name} is empty; write a header such as path,label and one row per image")
    columns, *rows = table
    for number, row in enumerate(rows, 1):
        if any("\n" in cell.strip() for cell in row):
            raise UnderstudyError(f"{name} has a line break within a value of row {number}; check its quotes")
        if any(cell.strip() for cell in row[len(columns) :]):
            raise UnderstudyError(
                f"{name} has {len(row)} fields in row {number} but {len(columns)} columns; put quotes around values "
                "that contain the separator"
            )
    names = [column.strip() for column in columns]
    listed = any(os.path.isfile(os.path.join(path.parent, _unified(cell))) for cell in columns)
    if listed and not any(column.lower() in PATH_COLUMNS for column in names):
        raise UnderstudyError(f"{name} has no header; add a first line such as path,label")
    if not rows:
        raise UnderstudyError(f"{name} has a header but no rows; add one row per image")
    return names, [dict(zip(names, [*row, *[""] * len(names)], strict=False)) for row in rows]


def _decoded(name: str, data: bytes) -> str:
    """The text of a table: UTF-8, or UTF-16 as some spreadsheets export it."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnderstudyError(f"{name} is not UTF-8 text, from line {line} on; save it as UTF-8") from error
    if "\0" in text:
        raise UnderstudyError(f"{name} is not a text file; save the table as CSV in UTF-8")
    return text


def _delimiter(path: Path, header: str) -> str:
    """What separates the columns of a header; of equals, the first of `_DELIMITERS`."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    unquoted = re.sub(r'"[^"]*"', "", header)
    return max(_DELIMITERS, key=unquoted.count)


def _paths(path: Path, rows: Sequence[Mapping[str, str]], column: str) -> list[str]:
    """The files listed in a column, which must all exist."""
    name = escape_name(os.fspath(path))
    paths = [_relative(path.parent, row[column]) for row in rows]
    if "." in paths:
        raise UnderstudyError(f"{name} has no path in row {paths.index('.') + 1}; remove the row or complete it")
    missing = [p for p in paths if not os.path.isfile(os.path.join(path.parent, p))]
    if missing:
        raise UnderstudyError(
            f"{name}: {len(missing):,} of {len(paths):,} listed images do not exist in {path.parent}, e.g. "
            f"{', '.join(map(escape_name, missing[:3]))}; give paths relative to the table"
        )
    return paths


def _relative(folder: Path, text: str) -> str:
    """A listed path, normalized and, within the table's folder, relative to it, so that a copy has the same ids."""
    path = posixpath.normpath(text if os.path.isfile(os.path.join(folder, text)) else _unified(text))
    root = os.path.abspath(folder)
    return path[len(root) + 1 :] if path.startswith(root + "/") else path


def _unified(text: str) -> str:
    """A path without spaces around it, with "/" as separator."""
    return text.strip().replace("\\", "/")


def _rows_by_split(name: str, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[SplitName, list[int]]:
    """Row indices of each split, by the column split, or those that mark validation or test rows."""
    by_lower = {column.lower(): column for column in columns}
    splits: list[SplitName] = ["train"] * len(rows)
    if "split" in by_lower:
        for i, row in enumerate(rows):
            value = row[by_lower["split"]].strip()
            split = parse_split(value)
            if split is None:
                raise UnderstudyError(f"{name} has {escape_name(value)!r} in its split column; use train, val or test")
            splits[i] = split
    else:
        for flag, split in _FLAGS.items():
            if flag in by_lower:
                marked = [_boolean(name, flag, row[by_lower[flag]]) for row in rows]
                splits = [split if mark else before for mark, before in zip(marked, splits, strict=True)]
    found: dict[SplitName, list[int]] = {}
    for i, split in enumerate(splits):
        found.setdefault(split, []).append(i)
    if "train" not in found:
        raise UnderstudyError(f"{name} has no rows of the train split; mark the training rows")
    return found


def _boolean(name: str, column: str, value: str) -> bool:
    found = _BOOLEANS.get(value.strip().lower())
    if found is None:
        raise UnderstudyError(f"{name} has {escape_name(value)!r} in its column {column}; use true or false")
    return found
