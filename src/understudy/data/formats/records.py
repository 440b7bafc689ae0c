"""Records that are files or members of a zip.

Records are small and are pickled without open handles, so that any number of worker processes can read them.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar
from zipfile import BadZipFile, ZipFile

from PIL import Image

from understudy.data.formats import decode
from understudy.data.source import ImageHeader, Stamp, Unreadable, digest_of

T = TypeVar("T")
MISSING = digest_of(b"")
"""The digest of all that cannot be read."""


def file_stamp(path: str | Path, size: int | None = None) -> Stamp:
    """The stamp of a file, or of `size` bytes in it; zeros if it is missing."""
    try:
        stat = os.stat(path)
    except OSError:
        return Stamp(0, 0)
    return Stamp(stat.st_size if size is None else size, stat.st_mtime_ns)


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

    @abstractmethod
    def open(self) -> BinaryIO:
        """A stream of the bytes; raises OSError or KeyError if they are missing."""

    @abstractmethod
    def stamp(self) -> Stamp:
        """What is known of the bytes without reading them; zeros if they are missing."""

    def digest(self) -> int:
        try:
            with self.open() as stream:
                return digest_of(stream.read())
        except (OSError, KeyError, BadZipFile, zlib.error):
            return MISSING

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

    def open(self) -> BinaryIO:
        return open(os.path.join(self.root, self.relative), "rb")

    def stamp(self) -> Stamp:
        return file_stamp(os.path.join(self.root, self.relative))


@dataclass(frozen=True, slots=True)
class ZipRecord(BytesRecord):
    """A member of a zip, read without extracting it."""

    archive: PerProcess[ZipFile]
    member: str

    @property
    def name(self) -> str:
        return escape_name(self.member)

    def open(self) -> BinaryIO:
        return self.archive().open(self.member)  # type: ignore[return-value]

    def stamp(self) -> Stamp:
        info = self.archive().getinfo(self.member)
        return Stamp(info.file_size, info.CRC)

    def digest(self) -> int:
        return self.archive().getinfo(self.member).CRC or MISSING  # which the archive's table of contents has


def open_zip(path: Path) -> PerProcess[ZipFile]:
    return PerProcess(partial(ZipFile, path))
