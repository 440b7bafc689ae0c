"""Tables of images: a CSV of paths and labels, or parquet files in the Hugging Face layout."""

from __future__ import annotations

import csv
import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.data.gather import (
    ARRAY_BYTES,
    Listed,
    Part,
    Records,
    check_classes,
    falls_to_test,
    pair_key,
    part_of,
    path_ids,
    position_ids,
)
from understudy.data.records import CellRecord, Column, FileRecord, printable
from understudy.errors import UnderstudyError

PATH_COLUMNS = ("path", "image", "file", "file_name", "filename")
LABEL_COLUMNS = ("label", "class", "target", "labels", "fine_label")
IMAGE_COLUMNS = ("image", "img")


def list_csv(path: Path, *, seed: int) -> Listed:
    """A table with the columns path (relative to the table), label, and optionally split."""
    name, folder = printable(os.fspath(path)), path.parent
    columns, rows = _rows(path)
    path_column, label_column = (column_of(name, columns, known) for known in (PATH_COLUMNS, LABEL_COLUMNS))
    paths = _paths(path, rows, path_column)
    labels = [(row[label_column] or "").strip() for row in rows]
    if "" in labels:
        raise UnderstudyError(f"{name} has no label in row {labels.index('') + 1}; give every image one")
    split = columns.get("split")
    parts: list[Part] | None = None
    if split is not None:
        named = [part_of((row[split] or "").strip()) for row in rows]
        if None in named:
            word = rows[named.index(None)][split]
            raise UnderstudyError(f"{name} has {word!r} in its split column; use train, val or test")
        parts = [part for part in named if part is not None]
    in_train = {label for i, label in enumerate(labels) if parts is None or parts[i] == "train"}
    numbers = all(label.isdecimal() for label in in_train)
    classes = tuple(sorted(in_train, key=lambda label: (int(label), label) if numbers else (0, label)))
    index = {label: i for i, label in enumerate(classes)}
    _check_known(name, sorted(set(labels) - in_train))
    check_classes(name, classes)
    records = Records(
        [FileRecord(os.fspath(folder), p) for p in paths],
        path_ids(name, paths),
        torch.tensor([index[label] for label in labels]),
        list(map(pair_key, paths)),
    )
    return Listed(name, tuple(map(printable, classes)), divide(name, records, parts, seed))


def csv_pairs(path: Path, column: str) -> dict[str, FileRecord]:
    """The images that one column of a table names, by the samples of its column path."""
    columns, rows = _rows(path)
    name = printable(os.fspath(path))
    known, own = (column_of(name, columns, words) for words in (PATH_COLUMNS, (column,)))
    keys = [pair_key(posixpath.normpath(row[known] or "")) for row in rows]
    return {key: FileRecord(os.fspath(path.parent), p) for key, p in zip(keys, _paths(path, rows, own), strict=True)}


def _rows(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """A table's columns, lower-case name to name, and its rows."""
    name = printable(os.fspath(path))
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        columns = {column.strip().lower(): column for column in reader.fieldnames or () if column}
        try:
            rows = list(reader)
        except csv.Error as fault:
            raise UnderstudyError(f"{name} is not a CSV ({fault}); write it anew as one") from fault
    if not rows:
        raise UnderstudyError(f"{name} has a header but no rows; add one row for each image")
    return columns, rows


def _paths(path: Path, rows: Sequence[Mapping[str, str]], column: str) -> list[str]:
    """The files that a column names, all of which must exist."""
    paths = [posixpath.normpath(row[column] or "") for row in rows]
    missing = [p for p in paths if not (path.parent / p).is_file()]
    if missing:
        first = ", ".join(map(printable, missing[:3]))
        raise UnderstudyError(
            f"{printable(os.fspath(path))} names {len(missing):,} of {len(paths):,} images that do not exist below "
            f"{path.parent}, first {first}; give paths relative to the table"
        )
    return paths


def list_parquet(path: Path, *, seed: int) -> Listed:
    """A parquet file, or a folder of train-*.parquet, test-*.parquet, in the Hugging Face layout.

    The columns are image, a struct of bytes and path, and label, integers (named by the ClassLabel in the
    schema's metadata, if there) or strings. Ids are the positions in the part.
    """
    name = printable(os.fspath(path))
    files = _files_by_part(path)
    labels: dict[Part, list[int | str]] = {}
    records: dict[Part, list[CellRecord]] = {}
    classes: tuple[str, ...] | None = None
    for part, paths in files.items():
        records[part], labels[part] = [], []
        for file in paths:
            cells, found, names = _read(file)
            records[part] += cells
            labels[part] += found
            classes = classes or names
    for part in [part for part in labels if part != "train" and set(labels[part]) == {-1}]:
        del labels[part], records[part]  # a test part whose labels are kept secret
    if not labels["train"]:
        raise UnderstudyError(f"{name} has no rows to train with; add one for each image")
    classes, targets = targets_of(name, classes, labels)
    check_classes(name, classes)
    parts = {
        part: Records(
            cells, position_ids(len(cells), part), targets[part], [row_key(part, i) for i in range(len(cells))]
        )
        for part, cells in records.items()
    }
    if len(parts) == 1 and part_of(re.split(r"[-_.]", path.name)[0]) is None and not path.is_dir():
        parts = divide(name, parts["train"], None, seed)
    # Of a big table only a few images are read before they are used.
    small = sum(file.stat().st_size for paths in files.values() for file in paths) <= ARRAY_BYTES
    return Listed(name, classes, parts, small)


def parquet_pairs(path: Path, column: str) -> dict[str, CellRecord]:
    """The images in one column of parquet files, by their position in the part."""
    found: dict[str, CellRecord] = {}
    for part, paths in _files_by_part(path).items():
        cells = [cell for file in paths for cell in _cells(file, (column,))[0]]
        found |= {row_key(part, i): cell for i, cell in enumerate(cells)}
    return found


def row_key(part: Part, row: int) -> str:
    """What a row of parquet files is matched with its pair by."""
    return f"row {row} of {part}"


def _files_by_part(path: Path) -> dict[Part, list[Path]]:
    files: dict[Part, list[Path]] = {}
    for file in parquet_files(path) if path.is_dir() else [path]:
        files.setdefault(part_of(re.split(r"[-_.]", file.name)[0]) or "train", []).append(file)
    if "train" not in files:
        # A lone file is what there is to train with, whatever it is called.
        if len(files) > 1 or path.is_dir():
            raise UnderstudyError(f"{printable(os.fspath(path))} holds no train-*.parquet; name the training files so")
        files = {"train": [path]}
    return files


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files in a folder, or in the folder `data` in it."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))


def column_of(name: str, columns: Mapping[str, str], known: Sequence[str]) -> str:
    """The first of the known names that is there; `columns` maps lower-case names to the names themselves."""
    for word in known:
        if word in columns:
            return columns[word]
    others = f" (or {', '.join(known[1:])})" if known[1:] else ""
    raise UnderstudyError(
        f"{name} has the columns {', '.join(columns) or '(none)'} but none called {known[0]!r}{others}; "
        "rename one or add it"
    )


def _check_known(name: str, extra: Sequence[object]) -> None:
    if extra:
        raise UnderstudyError(
            f"{name} has classes in its other parts that the train part lacks: "
            f"{', '.join(printable(str(c)) for c in extra)}; add them to train or take them out"
        )


def divide(name: str, whole: Records, parts: Sequence[Part] | None, seed: int) -> dict[Part, Records]:
    """The rows of each part: as the table says, or about a fifth of each class to test."""
    if parts is None:
        assert whole.targets is not None
        test = falls_to_test(whole.ids, whole.targets, seed).tolist()
        parts = ["test" if t else "train" for t in test]
    rows: dict[Part, list[int]] = {}
    for i, part in enumerate(parts):
        rows.setdefault(part, []).append(i)
    if "train" not in rows:
        raise UnderstudyError(f"{name} has no row of the split 'train'; name the rows to train with so")
    return {part: whole.keep(rows[part]) for part in rows}


def _cells(path: Path, known: Sequence[str]) -> tuple[list[CellRecord], Any]:
    """The records of one file's column of images, nothing of which is read, and the open file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = printable(os.fspath(path))
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as fault:
        raise _not_whole(name, fault) from fault
    column = Column(path, column_of(name, {column.lower(): column for column in file.schema_arrow.names}, known))
    groups = (file.metadata.row_group(g).num_rows for g in range(file.num_row_groups))
    return [CellRecord(column, g, row) for g, n in enumerate(groups) for row in range(n)], file


def _not_whole(name: str, fault: Exception) -> UnderstudyError:
    why = str(fault).splitlines()[0].rstrip(".")
    return UnderstudyError(f"{name} is not a whole parquet file ({why}); write it again")


def _read(path: Path) -> tuple[list[CellRecord], list[int | str], tuple[str, ...] | None]:
    """One file's records, labels and class names."""
    import pyarrow as pa

    name = printable(os.fspath(path))
    records, file = _cells(path, IMAGE_COLUMNS)
    try:
        label = column_of(name, {column.lower(): column for column in file.schema_arrow.names}, LABEL_COLUMNS)
        labels = file.read(columns=[label]).column(0).to_pylist()
    except pa.ArrowException as fault:
        raise _not_whole(name, fault) from fault
    if None in labels:
        raise UnderstudyError(f"{name} has no label in row {labels.index(None)}; give every image one")
    about = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    names = about.get("info", {}).get("features", {}).get(label, {}).get("names")
    return records, labels, None if names is None else tuple(map(str, names))


def targets_of(
    name: str, classes: tuple[str, ...] | None, labels: Mapping[Part, Sequence[int | str]]
) -> tuple[tuple[str, ...], dict[Part, Tensor]]:
    """Class names and (N,) int64 targets from columns of integers or of strings."""
    train = labels["train"]
    if train and isinstance(train[0], str):
        words = sorted(set(train), key=str)
        _check_known(name, sorted({c for found in labels.values() for c in found} - set(words), key=str))
        index = {word: i for i, word in enumerate(words)}
        return tuple(map(str, words)), {part: torch.tensor([index[c] for c in found]) for part, found in labels.items()}
    return label_targets(name, {part: torch.tensor(found) for part, found in labels.items()}, classes)


def label_targets(
    name: str, labels: Mapping[Part, Tensor], classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[Part, Tensor]]:
    """Check (N,) integer labels against the classes, which without names are "0" to the highest in train."""
    n = len(classes) if classes else int(labels["train"].max()) + 1
    for part, found in labels.items():
        if found.dtype.is_floating_point or found.dtype.is_complex or found.ndim != 1:
            shape = f"{str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}"
            raise UnderstudyError(
                f"the labels of {name} are {shape}, where one whole number for each sample was expected; "
                "convert them, with argmax(1) if they are one-hot"
            )
        wrong = ((found < 0) | (found >= n)).nonzero().flatten()
        if len(wrong):
            raise UnderstudyError(
                f"{name} has label {int(found[wrong[0]])} at sample {int(wrong[0])} of its {part} part, "
                f"outside 0 to {n - 1} for its {n} classes; number the classes from 0"
            )
    names = tuple(classes) if classes else tuple(map(str, range(n)))
    return names, {part: found.to(torch.int64) for part, found in labels.items()}
