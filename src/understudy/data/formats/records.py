"""Records that are files or members of a zip.

Records are small and are pickled without open handles, so that any number of worker processes can read them.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar
from zipfile import ZipFile

from PIL import Image

from understudy.data.formats import decode
from understudy.data.source import READ_ERRORS, ImageHeader, Stamp, Unreadable, digest_of

T = TypeVar("T")
_MAX_HEADER_BYTES = 2**24
MISSING = digest_of(b"")
"""The digest of all that cannot be read."""


class BoundedFile(io.FileIO):
    """A tar that is not read in pieces of more than `_MAX_HEADER_BYTES`, whatever its headers claim."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return super().read(size)


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

    @property
    def nbytes(self) -> int:
        return self.stamp().size

    @abstractmethod
    def open(self) -> BinaryIO: ...

    @abstractmethod
    def stamp(self) -> Stamp:
        """What is known of the bytes without reading them; zeros if they are missing."""

    def digest(self) -> int:
        try:
            with self.open() as stream:
                return digest_of(stream.read())
        except READ_ERRORS:
            return MISSING

    def header(self) -> ImageHeader:
        with self.stream() as stream:
            return decode.read_header(stream)

    def read(self, least: int = 0) -> Image.Image:
        with self.stream() as stream:
            return decode.decode(stream, least)

    def first_bytes(self, count: int) -> bytes:
        """The first bytes of the file; raises `Unreadable`."""
        with self.stream() as stream:
            try:
                return stream.read(count)
            except Exception as error:
                raise Unreadable(decode.DAMAGED) from error

    def stream(self) -> BinaryIO:
        """A stream of the bytes; raises `Unreadable`."""
        try:
            return self.open()
        except (OSError, KeyError) as error:
            raise Unreadable(decode.NOT_OPENED) from error
        except (Unreadable, MemoryError):
            raise
        except Exception as error:  # archives raise almost anything on corrupt data
            raise Unreadable(decode.DAMAGED) from error


@dataclass(frozen=True, slots=True)
class FileRecord(BytesRecord):
    """The file `relative` in the folder `root`."""

    root: str
    relative: str

    @property
    def name(self) -> str:
        return escape_name(self.relative)

    def open(self) -> BinaryIO:
        path = os.path.join(self.root, self.relative)
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):  # opening a pipe would wait for its other end
            raise Unreadable(decode.NOT_A_FILE)
        if about.st_size > decode.MAX_BYTES:
            raise Unreadable(decode.TOO_MANY_BYTES)
        return open(path, "rb")

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
        archive = self.archive()
        if archive.getinfo(self.member).file_size > decode.MAX_BYTES:
            raise Unreadable(decode.TOO_MANY_BYTES)
        return archive.open(self.member)  # type: ignore[return-value]

    def stamp(self) -> Stamp:
        info = self.archive().getinfo(self.member)
        return Stamp(info.file_size, info.CRC)

    def digest(self) -> int:
        return self.archive().getinfo(self.member).CRC or MISSING  # which the archive's table of contents has


@dataclass(frozen=True, slots=True)
class UnreadableRecord(BytesRecord):
    """A file that is known to be unreadable without being opened."""

    path: str
    reason: str

    @property
    def name(self) -> str:
        return escape_name(self.path)

    def open(self) -> BinaryIO:
        raise Unreadable(self.reason)

    def stamp(self) -> Stamp:
        return Stamp(0, 0)


def open_zip(path: Path) -> PerProcess[ZipFile]:
    return PerProcess(partial(ZipFile, path))
