"""The kinds of record: a file, a zip's member, a table's cell, a data set's item.

All are small, and pickle without what they have open, so that any number of worker processes can read them.
"""

from __future__ import annotations

import io
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar
from zipfile import ZipFile

from PIL import Image

from understudy.data import decode
from understudy.data.source import Unreadable

T = TypeVar("T")
_CACHE_BYTES = 256 * 2**20


def printable(name: str) -> str:
    """A file's name with what is not UTF-8 in it written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class PerProcess(Generic[T]):
    """A handle that every process opens for itself: two that share one would move each other's place."""

    def __init__(self, opener: Callable[[], T]) -> None:
        self._opener = opener
        self._held: tuple[int, T] | None = None

    def __call__(self) -> T:
        held = self._held
        if held is None or held[0] != os.getpid():
            held = self._held = (os.getpid(), self._opener())
        return held[1]

    def __getstate__(self) -> dict[str, object]:
        return {"_opener": self._opener, "_held": None}


class Stored(ABC):
    """A record that is an image file's bytes, wherever these lie."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def open(self) -> BinaryIO:
        """The bytes from their beginning; raises OSError, or KeyError where they are gone."""

    def head(self) -> decode.Head:
        """The image's size and kind, from the header alone; raises `Unreadable`."""
        with self._stream() as stream:
            return decode.head(stream)

    def read(self, at_least: int = 0) -> Image.Image:
        """Decode; see `Record.read`."""
        with self._stream() as stream:
            return decode.decode(stream, at_least)

    def _stream(self) -> BinaryIO:
        try:
            return self.open()
        except (OSError, KeyError) as fault:
            raise Unreadable(decode.NOT_OPENED) from fault


@dataclass(frozen=True, slots=True)
class FileRecord(Stored):
    """The file at `relative` under the folder `root`."""

    root: str
    relative: str

    @property
    def name(self) -> str:
        return printable(self.relative)

    def open(self) -> BinaryIO:
        return open(os.path.join(self.root, self.relative), "rb")


@dataclass(frozen=True, slots=True)
class MemberRecord(Stored):
    """A member of a zip, read where it lies."""

    archive: PerProcess[ZipFile]
    member: str

    @property
    def name(self) -> str:
        return printable(self.member)

    def open(self) -> BinaryIO:
        return self.archive().open(self.member)  # type: ignore[return-value]


def archive(path: Path) -> PerProcess[ZipFile]:
    """A zip's handle."""
    return PerProcess(partial(ZipFile, path))


class Column:
    """A parquet file's column of images, read by row groups; the last 256 MiB of them are kept."""

    def __init__(self, path: Path, column: str) -> None:
        import pyarrow.parquet as pq

        self.path, self.column = path, column
        self._file: PerProcess[Any] = PerProcess(partial(pq.ParquetFile, path))
        self._fresh()

    def _fresh(self) -> None:
        self._lock, self._groups, self._bytes = threading.Lock(), OrderedDict[int, list[Any]](), 0

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "column": self.column, "_file": self._file}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._fresh()

    def cell(self, group: int, row: int) -> bytes:
        """The bytes of one image; FileNotFoundError where the cell holds none."""
        with self._lock:
            cells = self._groups.get(group)
            if cells is None:
                cells = self._file().read_row_group(group, columns=[self.column]).column(0).to_pylist()
                cells = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
                self._groups[group] = cells
                self._bytes += sum(map(len, filter(None, cells)))
                while self._bytes > _CACHE_BYTES and len(self._groups) > 1:
                    self._bytes -= sum(map(len, filter(None, self._groups.popitem(last=False)[1])))
            self._groups.move_to_end(group)
        found = cells[row]
        if found is None:
            raise FileNotFoundError(f"row {row} of row group {group} in {self.path} holds no bytes")
        return found


@dataclass(frozen=True, slots=True)
class CellRecord(Stored):
    """An image in a parquet file: the row's number in its row group."""

    column: Column
    group: int
    row: int

    @property
    def name(self) -> str:
        return f"{printable(self.column.path.name)}, row {self.row} of group {self.group}"

    def open(self) -> BinaryIO:
        return io.BytesIO(self.column.cell(self.group, self.row))


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """The image `dataset[index]`, or `dataset[index][key]` where an item is more than its image."""

    dataset: Any
    index: int
    key: int | str | None = None

    @property
    def name(self) -> str:
        return f"item {self.index}"

    def head(self) -> decode.Head:
        """The image's size and kind; decodes the item. Raises `Unreadable`."""
        image = self.read()
        return decode.Head(*image.size, grey=image.mode == "L")

    def read(self, at_least: int = 0) -> Image.Image:
        """Decode; the size is what the data set gives, whatever `at_least`."""
        try:
            item = self.dataset[self.index]
        except (OSError, SyntaxError, Image.DecompressionBombError) as fault:
            raise Unreadable(decode.DAMAGED) from fault
        image = item if self.key is None else item[self.key]
        if not isinstance(image, Image.Image):
            raise TypeError(f"item {self.index} holds {type(image).__name__}, where the first holds an image")
        return decode.upright(image)
