"""Parquet files with an image and a label column, as written by Hugging Face Datasets."""

from __future__ import annotations

import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

from understudy.data.formats.build import MAX_ARRAY_BYTES
from understudy.data.formats.index import (
    DatasetIndex,
    SplitIndex,
    SplitName,
    divide,
    files_by_split,
    position_ids,
    split_of_file,
)
from understudy.data.formats.labels import IMAGE_COLUMNS, LABEL_COLUMNS, encode_labels, find_column
from understudy.data.formats.records import BytesRecord, PerProcess, escape_name, file_stamp
from understudy.data.source import Stamp, digest_of
from understudy.errors import UnderstudyError

_CACHE_BYTES = 256 * 2**20
_WHOLE, _BLOCKS, _BLOCK = 64 * 2**20, 256, 2**16  # of larger files so many blocks of so many bytes are hashed


class _Column:
    """The image column of a parquet file, read by row group; the last 256 MiB are cached."""

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow.parquet as pq

        self.path, self.column, self._file = path, column, pq.ParquetFile(path)
        self._lock, self._groups, self._bytes = threading.Lock(), OrderedDict[int, list[bytes | None]](), 0

    def cell(self, group: int, row: int) -> bytes:
        """The encoded image in a row of a row group."""
        with self._lock:
            cells = self._groups.get(group)
            if cells is None:
                values = self._file.read_row_group(group, columns=[self.column]).column(0).to_pylist()
                cells = [value.get("bytes") if isinstance(value, dict) else value for value in values]
                self._groups[group] = cells
                self._bytes += sum(map(len, filter(None, cells)))
                while self._bytes > _CACHE_BYTES and len(self._groups) > 1:
                    self._bytes -= sum(map(len, filter(None, self._groups.popitem(last=False)[1])))
            self._groups.move_to_end(group)
        cell = cells[row]
        if cell is None:
            raise FileNotFoundError(f"row {row} of row group {group} in {self.path} is empty")
        return cell

    @cached_property
    def stamp(self) -> Stamp:
        """A row's share of the file."""
        return file_stamp(self.path, self.path.stat().st_size // max(self._file.metadata.num_rows, 1))

    @cached_property
    def digest(self) -> int:
        """Of the file, as a row is not read without its row group."""
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            if size <= _WHOLE:
                return digest_of(file.read())
            blocks = []
            for number in range(_BLOCKS):
                file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                blocks.append(file.read(_BLOCK))
        return digest_of(b"".join(blocks))


@dataclass(frozen=True, slots=True)
class ParquetRecord(BytesRecord):
    """An image in a parquet file, by row group and row within the group."""

    file: str
    column: PerProcess[_Column]
    group: int
    row: int

    @property
    def name(self) -> str:
        return f"{escape_name(self.file)}, row {self.row} of group {self.group}"

    def open(self) -> BinaryIO:
        return io.BytesIO(self.column().cell(self.group, self.row))

    def stamp(self) -> Stamp:
        return self.column().stamp

    def digest(self) -> int:
        return self.column().digest


def index_parquet(path: Path, *, seed: int) -> DatasetIndex:
    """Index a parquet file, or a folder of train-*.parquet, test-*.parquet and so on.

    The image column holds structs of bytes and path. Labels are strings, or integers named by the `ClassLabel` feature
    in the schema metadata. Ids are positions in the split.
    """
    name = escape_name(os.fspath(path))
    files = _files(path)
    records: dict[SplitName, list[ParquetRecord]] = {}
    labels: dict[SplitName, list[int | str]] = {}
    classes: tuple[str, ...] | None = None
    for split, paths in files.items():
        records[split], labels[split] = [], []
        for file in paths:
            file_records, file_labels, file_classes = _read(file)
            records[split] += file_records
            labels[split] += file_labels
            classes = classes or file_classes
    for split in [split for split in labels if split != "train" and set(labels[split]) == {-1}]:
        del labels[split], records[split]  # a test split with withheld labels
    if not labels["train"]:
        raise UnderstudyError(f"{name} has no training rows; add one row per image")
    classes, targets = encode_labels(name, classes, labels)
    splits = {
        split: SplitIndex(rows, position_ids(len(rows), split), targets[split], _keys(split, len(rows)))
        for split, rows in records.items()
    }
    if len(splits) == 1 and split_of_file(path) is None and not path.is_dir():
        splits = divide(splits["train"], seed)
    small = sum(file.stat().st_size for paths in files.values() for file in paths) <= MAX_ARRAY_BYTES
    return DatasetIndex(name, classes, splits, scan=small)


def parquet_pairs(path: Path, column: str) -> dict[str, ParquetRecord]:
    """The images in one column, by the key of their position in the split."""
    pairs: dict[str, ParquetRecord] = {}
    for split, paths in _files(path).items():
        records = [record for file in paths for record in _records(file, (column,))[0]]
        pairs |= dict(zip(_keys(split, len(records)), records, strict=True))
    return pairs


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files in a folder or its subfolder `data`."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))


def _keys(split: SplitName, n: int) -> list[str]:
    """Keys that match rows across modalities."""
    return [f"row {row} of {split}" for row in range(n)]


def _files(path: Path) -> dict[SplitName, list[Path]]:
    files = files_by_split(parquet_files(path) if path.is_dir() else [path])
    if "train" not in files:
        if path.is_dir():
            raise UnderstudyError(f"{escape_name(os.fspath(path))} has no train-*.parquet; rename the training files")
        return {"train": [path]}  # a single file is the training data, whatever its name
    return files


def _records(path: Path, columns: Sequence[str]) -> tuple[list[ParquetRecord], Any]:
    """The records of a file's image column and the open file; no image is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = escape_name(os.fspath(path))
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise _corrupt(name, error) from error
    column = PerProcess(partial(_Column, path, find_column(name, file.schema_arrow.names, columns)))
    groups = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    return [ParquetRecord(path.name, column, group, row) for group, n in enumerate(groups) for row in range(n)], file


def _read(path: Path) -> tuple[list[ParquetRecord], list[int | str], tuple[str, ...] | None]:
    """Records, labels and class names of a file."""
    import pyarrow as pa

    name = escape_name(os.fspath(path))
    records, file = _records(path, IMAGE_COLUMNS)
    column = find_column(name, file.schema_arrow.names, LABEL_COLUMNS)
    try:
        labels = file.read(columns=[column]).column(0).to_pylist()
    except pa.ArrowException as error:
        raise _corrupt(name, error) from error
    if None in labels:
        raise UnderstudyError(f"{name} has no label in row {labels.index(None)}; label every image")
    metadata = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    classes = metadata.get("info", {}).get("features", {}).get(column, {}).get("names")
    return records, labels, None if classes is None else tuple(map(str, classes))


def _corrupt(name: str, error: Exception) -> UnderstudyError:
    reason = str(error).splitlines()[0].rstrip(".")
    return UnderstudyError(f"{name} is not a complete parquet file ({reason}); write it again")
