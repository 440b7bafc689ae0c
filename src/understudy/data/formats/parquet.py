"""Parquet files with an image and a label column, as written by Hugging Face Datasets."""

from __future__ import annotations

import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

from understudy.data.formats.build import MAX_ARRAY_BYTES
from understudy.data.formats.index import (
    DatasetIndex,
    SplitIndex,
    SplitName,
    parse_split,
    position_ids,
    split_of_file,
)
from understudy.data.formats.labels import IMAGE_COLUMNS, LABEL_COLUMNS, encode_labels, find_column
from understudy.data.formats.records import BytesRecord, PerProcess, escape_name, file_stamp
from understudy.data.source import Stamp, digest_of
from understudy.errors import UnderstudyError

_CACHE_BYTES = 256 * 2**20
_LARGE = 2**30  # bytes of a file that is not read for the sizes of its images
_WHOLE, _BLOCKS, _BLOCK = 64 * 2**20, 256, 2**16  # of larger files so many blocks of so many bytes are hashed


class _Column:
    """The image column of a parquet file, read by row group; the last 256 MiB are cached."""

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self._file = path, pq.ParquetFile(path)
        # of structs, the bytes alone: their paths are not used
        self.column = f"{column}.bytes" if pa.types.is_struct(self._file.schema_arrow.field(column).type) else column
        self.large = path.stat().st_size > _LARGE
        self._lock, self._groups, self._bytes = threading.Lock(), OrderedDict[int, list[bytes | None]](), 0

    def cell(self, group: int, row: int) -> bytes:
        """The encoded image in a row of a row group."""
        with self._lock:
            cells = self._groups.get(group)
            if cells is None:
                values = _read_cells(self._file, group, self.column)
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


def _read_cells(file: Any, group: int, column: str) -> list[Any]:
    """A column of a row group; raises OSError if it is damaged."""
    import pyarrow as pa

    try:
        return file.read_row_group(group, columns=[column]).column(0).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise OSError(str(error)) from error


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

    @property
    def nbytes(self) -> int:
        column = self.column()
        if column.large:
            return -1
        try:
            return len(column.cell(self.group, self.row))
        except OSError:
            return 0

    def open(self) -> BinaryIO:
        return io.BytesIO(self.column().cell(self.group, self.row))

    def stamp(self) -> Stamp:
        return self.column().stamp

    def digest(self) -> int:
        return self.column().digest


def index_parquet(path: Path) -> DatasetIndex:
    """Index a parquet file, or a folder of train-*.parquet, test-*.parquet and so on, or of train/, test/, ... of them.

    The image column holds encoded images, or structs with these as bytes. Labels are strings, or integers, which the
    `ClassLabel` feature in the schema metadata names. Ids are positions in the split.
    """
    name = escape_name(os.fspath(path))
    files = _files(path)
    tables = {split: [_read(file) for file in paths] for split, paths in files.items()}
    labels = {split: [label for table in found for label in table.labels] for split, found in tables.items()}
    for split in [split for split in labels if split != "train" and set(map(str, labels[split])) == {"-1"}]:
        del labels[split]  # a test split with withheld labels
    if not labels["train"]:
        raise UnderstudyError(f"{name} has no training rows; add one row per image")
    classes, targets = encode_labels(name, _common_classes(name, tables.values()), labels)
    splits: dict[SplitName, SplitIndex] = {}
    for split in labels:
        records = [record for table in tables[split] for record in table.records]
        if records:
            n = len(records)
            splits[split] = SplitIndex(records, position_ids(n, split), targets[split], _keys(split, n))
    small = sum(file.stat().st_size for paths in files.values() for file in paths) <= MAX_ARRAY_BYTES
    # a file for testing is scored as a whole
    divisible = path.is_dir() or split_of_file(path) in (None, "train")
    return DatasetIndex(name, classes, splits, scan=small, divisible=divisible)


def parquet_pairs(path: Path, column: str) -> dict[str, ParquetRecord]:
    """The images in one column, by the key of their position in the split."""
    pairs: dict[str, ParquetRecord] = {}
    for split, paths in _files(path).items():
        records = [record for file in paths for record in _records(file, _open(file), (column,))]
        pairs |= dict(zip(_keys(split, len(records)), records, strict=True))
    return pairs


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files in a folder or else its subfolder `data`, or in the folders of a configuration and its splits.

    The layouts of the Hub: data/train-*.parquet, plain_text/train-*.parquet, default/train/0000.parquet.
    """
    for pattern in ("*.parquet", "data/*.parquet", "*/*.parquet", "*/*/*.parquet"):
        deep = pattern.startswith("*/*/")
        found = [path for path in folder.glob(pattern) if not deep or parse_split(path.parent.name) is not None]
        hidden = (any(part.startswith(".") for part in path.relative_to(folder).parts) for path in found)
        found = [path for path, skip in zip(found, hidden, strict=True) if not skip and path.is_file()]
        if found:
            return sorted(found)
    return []


def _keys(split: SplitName, n: int) -> list[str]:
    """Keys that match rows across modalities."""
    return [f"row {row} of {split}" for row in range(n)]


def _files(path: Path) -> dict[SplitName, list[Path]]:
    """The files of each split, which the name of a file or of its folder starts with; by default, of train."""
    if not path.is_dir():
        return {"train": [path]}  # a single file is the training data, whatever its name
    found: dict[SplitName, list[Path]] = {}
    configurations: set[str] = set()
    for file in parquet_files(path):
        folders = file.relative_to(path).parts[:-1]
        split = split_of_file(file) or next(filter(None, map(parse_split, reversed(folders))), "train")
        found.setdefault(split, []).append(file)
        configurations.update(part for part in folders[:1] if parse_split(part) is None)
    name = escape_name(os.fspath(path))
    if len(configurations) > 1:
        first, second, *_ = sorted(configurations)
        raise UnderstudyError(f"{name} holds several datasets, {first}/ and {second}/; give the folder of one")
    if "train" not in found:
        raise UnderstudyError(f"{name} has no train-*.parquet; rename the training files")
    return found


@dataclass(frozen=True)
class _Table:
    """The contents of a file; `classes` is None if its schema does not name them."""

    file: str
    records: list[ParquetRecord]
    labels: list[int | str]
    classes: tuple[str, ...] | None


def _open(path: Path) -> Any:
    """The open file, whose footer is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = escape_name(os.fspath(path))
    try:
        file = pq.ParquetFile(path)
        _ = file.schema_arrow  # read when first asked for
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _corrupt(name, error) from error
    rows = file.metadata.num_rows
    if not 0 <= rows <= path.stat().st_size:  # an image takes at least a byte
        raise UnderstudyError(f"{name} claims to hold {rows:,} rows, more than its size allows; write it again")
    return file


def _records(path: Path, file: Any, columns: Sequence[str]) -> list[ParquetRecord]:
    """The records of a file's image column; no image is read."""
    import pyarrow as pa

    name = escape_name(os.fspath(path))
    column = find_column(name, file.schema_arrow.names, columns)
    kind = file.schema_arrow.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    encoded = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if file.metadata.num_rows and not encoded:
        raise UnderstudyError(
            f"the column {column!r} of {name} holds {str(kind)[:80]}, not the bytes of image files; write it again "
            "with encoded images"
        )
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    if min(groups, default=0) < 0 or sum(groups) != file.metadata.num_rows:
        raise _corrupt(name, ValueError("its row groups do not add up"))
    opener = PerProcess(partial(_Column, path, column))
    return [ParquetRecord(path.name, opener, group, row) for group, n in enumerate(groups) for row in range(n)]


def _read(path: Path) -> _Table:
    """Records, labels and class names of a file."""
    import pyarrow as pa

    name = escape_name(os.fspath(path))
    file = _open(path)
    records = _records(path, file, IMAGE_COLUMNS)
    column = find_column(name, file.schema_arrow.names, LABEL_COLUMNS)
    try:
        labels = file.read(columns=[column]).column(0).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _corrupt(name, error) from error
    if None in labels:
        raise UnderstudyError(f"{name} has no label in row {labels.index(None)}; label every image")
    if len(labels) != len(records):
        raise _corrupt(name, ValueError("its columns differ in length"))
    return _Table(name, records, labels, _class_names(name, file.schema_arrow.metadata or {}, column))


def _class_names(name: str, metadata: Mapping[bytes, bytes], column: str) -> tuple[str, ...] | None:
    """The names that the metadata of Hugging Face Datasets gives to the labels in a column."""
    try:
        about: Any = json.loads(metadata.get(b"huggingface", b"{}"))
        for key in ("info", "features", column):
            about = about.get(key) or {}
        names = about.get("names")
    except (ValueError, AttributeError, RecursionError):
        raise UnderstudyError(
            f"the metadata of Hugging Face Datasets in {name} is damaged; write the file again, or without it"
        ) from None
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
        raise UnderstudyError(f"the class names in the metadata of {name} are not a list of names; write it again")
    return tuple(names)


def _common_classes(name: str, tables: Iterable[Sequence[_Table]]) -> tuple[str, ...] | None:
    """The class names of all files, which must agree."""
    named = {table.classes: table.file for found in tables for table in found}
    if len(named) > 1:
        first, second, *_ = named.values()
        raise UnderstudyError(f"{first} and {second} in {name} name different classes; write them again with the same")
    return next(iter(named))


def _corrupt(name: str, error: Exception) -> UnderstudyError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
    return UnderstudyError(f"{name} is not a complete parquet file ({reason}); write it again")
