"""Records that are files or members of a zip.

Records are small and are pickled without open handles, so that any number of worker processes can read them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar
from zipfile import ZipFile

from PIL import Image

from understudy.data.formats import decode
from understudy.data.source import ImageHeader, Unreadable

T = TypeVar("T")


def escape_name(name: str) -> str:
    """A file name with bytes that are not UTF-8 written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class PerProcess(Generic[T]):
    """A file handle that each process opens for itself, as forked processes would share one's position."""

    def __init__(self, opener: Callable[[], T]) -> None:
        self._opener = opener
        self._handle: tuple[int, T] | None = None

    def __call__(self) -> T:
        handle = self._handle
        if handle is None or handle[0] != os.getpid():
            handle = self._handle = (os.getpid(), self._opener())
        return handle[1]

    def __getstate__(self) -> dict[str, object]:
        return {"_opener": self._opener, "_handle": None}


class BytesRecord(ABC):
    """A record that is the bytes of an encoded file."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def nbytes(self) -> int: ...

    @abstractmethod
    def open(self) -> BinaryIO: ...

    def header(self) -> ImageHeader:
        with self._stream() as stream:
            return decode.read_header(stream)

    def read(self) -> Image.Image:
        with self._stream() as stream:
            return decode.decode(stream)

    def _stream(self) -> BinaryIO:
        try:
            return self.open()
        except (OSError, KeyError) as error:
            raise Unreadable(decode.NOT_OPENED) from error


@dataclass(frozen=True, slots=True)
class FileRecord(BytesRecord):
    """The file `relative` in the folder `root`."""

    root: str
    relative: str

    @property
    def name(self) -> str:
        return escape_name(self.relative)

    @property
    def nbytes(self) -> int:
        try:
            return os.path.getsize(os.path.join(self.root, self.relative))
        except OSError:
            return 0

    def open(self) -> BinaryIO:
        return open(os.path.join(self.root, self.relative), "rb")


@dataclass(frozen=True, slots=True)
class ZipRecord(BytesRecord):
    """A member of a zip, read without extracting it."""

    archive: PerProcess[ZipFile]
    member: str

    @property
    def name(self) -> str:
        return escape_name(self.member)

    @property
    def nbytes(self) -> int:
        return self.archive().getinfo(self.member).file_size

    def open(self) -> BinaryIO:
        return self.archive().open(self.member)  # type: ignore[return-value]


def open_zip(path: Path) -> PerProcess[ZipFile]:
    return PerProcess(partial(ZipFile, path))
