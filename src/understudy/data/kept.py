"""Decoded images kept for later epochs: in memory where they fit, else in a file that is mapped into memory.

The file is $UNDERSTUDY_CACHE/images/KEY.pixels (see `formats/decoded.py`), known by the names, sizes and times of the
records, so that later runs find it. It begins with a table of (start, height, width) int64 for each image, -1 for those
that are not kept; their pixels follow, (H, W, C) uint8. Memory has the same, as a file without a place.
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import PIL
import torch
from PIL import Image
from torch import Tensor

from understudy.data.decoding import Decoding
from understudy.data.formats.decode import halvings
from understudy.data.formats.decoded import cache_folder, forget
from understudy.data.memory import SHARE, free_memory
from understudy.data.source import ImageHeader, Record, RecordSource, Unreadable, map_threads

MOST_BYTES = 16 * 2**30
"""Of all kept images in files."""
_DISK_SHARE = 0.25  # of the free space
_SAMPLE = 500  # headers from which the size of all is estimated
_ENTRY = 24  # bytes of the table for each image
_VERSION = 1


@dataclass
class Kept:
    """Decoded images in a mapped file; those that are not there are decoded."""

    decoding: Decoding
    path: str

    def __len__(self) -> int:
        return len(self.decoding)

    def __getstate__(self) -> dict[str, Any]:
        return {"decoding": self.decoding, "path": self.path}  # each process maps the file for itself

    @cached_property
    def _bytes(self) -> Tensor:
        return torch.from_file(self.path, shared=True, size=os.stat(self.path).st_size, dtype=torch.uint8)

    @cached_property
    def _table(self) -> Tensor:
        return self._bytes[: _ENTRY * len(self)].view(torch.int64).view(-1, 3)

    def is_whole(self) -> bool:
        """Whether the file has the size that its table says; raises OSError if there is none."""
        size = os.stat(self.path).st_size
        return size >= _ENTRY * len(self) and size == _end(self._table, self.decoding.channels)

    def image(self, row: int) -> Image.Image:
        pixels = self.pixels(row)
        return Image.fromarray((pixels[..., 0] if self.decoding.channels == 1 else pixels).numpy())

    def pixels(self, row: int) -> Tensor:
        start, height, width = self._table[row].tolist()
        if start < 0:
            return self.decoding.pixels(row)
        channels = self.decoding.channels
        return self._bytes[start : start + height * width * channels].view(height, width, channels)


def keep(
    decodings: Mapping[str, Decoding], sources: Mapping[str, RecordSource], say: Callable[[str], None]
) -> dict[str, Kept]:
    """Decode all images once and keep them: in a quarter of the free memory, else in the cache folder.

    Args:
        decodings: by modality.
        sources: what they decode, by modality.
        say: is given one line, before anything is decoded; another one where the disk turns out to be full.

    Returns:
        The kept images by modality; none where they fit nowhere.
    """
    count = f"{sum(map(len, decodings.values())):,} decoded images"
    memory, disk = _budgets()
    estimate = sum(map(_estimated_bytes, decodings.values()))
    if estimate > 2 * max(memory, disk):
        say(f"{count} would take {_gigabytes(estimate)}: decoded in each epoch")
        return {}
    paths = _paths(decodings, sources)
    if kept := _known(decodings, paths):
        say(f"{count} are read from {_folder_of(paths)}, {_gigabytes(sum(map(_size, kept.values())))}")
        return kept
    tables = {name: _table(one) for name, one in decodings.items()}
    total = sum(_end(tables[name], one.channels) for name, one in decodings.items())
    if total <= memory:
        say(f"{count} are kept in memory, {_gigabytes(total)}")
        return {name: _fill_memory(one, tables[name]) for name, one in decodings.items()}
    if total > disk or not paths:
        say(f"{count} would take {_gigabytes(total)}: decoded in each epoch")
        return {}
    say(f"{count} are kept in {_folder_of(paths)}, {_gigabytes(total)}")
    try:
        kept = {name: _fill_file(one, tables[name], paths[name]) for name, one in decodings.items()}
    except OSError as error:
        say(f"they could not be kept ({error.strerror or error}): decoded in each epoch")
        return {}
    forget(_folder_of(paths), "*.pixels", MOST_BYTES)
    return kept


def _budgets() -> tuple[int, int]:
    """Bytes that may be kept in memory and on the disk."""
    folder, disk = cache_folder("images"), 0
    if folder is not None:
        there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
        with suppress(OSError):
            disk = min(MOST_BYTES, int(_DISK_SHARE * shutil.disk_usage(there).free))
    # other systems have no file in memory that several processes can map; their disk caches have it
    return int(SHARE * free_memory()) if hasattr(os, "memfd_create") else 0, disk


def _paths(decodings: Mapping[str, Decoding], sources: Mapping[str, RecordSource]) -> dict[str, Path]:
    """The file of each modality; none where a change of the records would go unseen, or nothing is to be kept."""
    folder = cache_folder("images")
    stamps = {name: source.stamps() for name, source in sources.items()}
    if folder is None or not all(bool(each[:, 1].all()) for each in stamps.values()):
        return {}
    return {name: folder / f"{_key(one, stamps[name])}.pixels" for name, one in decodings.items()}


def _folder_of(paths: Mapping[str, Path]) -> Path:
    return next(iter(paths.values())).parent


def _key(decoding: Decoding, stamps: Tensor) -> str:
    about = f"{_VERSION} {PIL.__version__} {decoding.channels} {decoding.least}"
    state = blake2b(about.encode(), digest_size=16)
    state.update(stamps.numpy().tobytes())
    state.update("\0".join(record.name for record in decoding.records).encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _known(decodings: Mapping[str, Decoding], paths: Mapping[str, Path]) -> dict[str, Kept]:
    """The images that an earlier run has kept in files; none if one of the files is missing or damaged."""
    try:
        kept = {name: Kept(decodings[name], str(path)) for name, path in paths.items()}
        if all(one.is_whole() for one in kept.values()):
            for path in paths.values():
                os.utime(path)  # it was used
            return kept
    except OSError:
        pass  # there is none
    return {}


def _header(record: Record) -> ImageHeader | None:
    with suppress(Unreadable):
        return record.header()
    return None


def _sizes(decoding: Decoding, records: Sequence[Record]) -> Tensor:
    """(N, 2) int64: height and width of each decoded image, as far as its header tells; zeros if it is not readable."""

    def size(record: Record) -> tuple[int, int]:
        header = _header(record)
        if header is None:
            return 0, 0
        by = 2 ** halvings(header.width, header.height, decoding.least)
        return -(-header.height // by), -(-header.width // by)

    return torch.tensor(map_threads(size, records), dtype=torch.int64).view(-1, 2)


def _estimated_bytes(decoding: Decoding) -> int:
    records = decoding.records[:: -(-len(decoding) // _SAMPLE)]
    return int(_sizes(decoding, records).prod(1).sum()) * decoding.channels * len(decoding) // len(records)


def _table(decoding: Decoding) -> Tensor:
    """(N, 3) int64: start, height and width of each image."""
    sizes = _sizes(decoding, decoding.records)
    lengths = sizes.prod(1) * decoding.channels
    return torch.cat([(_ENTRY * len(decoding) + lengths.cumsum(0) - lengths)[:, None], sizes], 1)


def _end(table: Tensor, channels: int) -> int:
    """The bytes of a file with this table."""
    return _ENTRY * len(table) + int(table[:, 1:].prod(1).sum()) * channels


def _fill_memory(decoding: Decoding, table: Tensor) -> Kept:
    file = os.fdopen(os.memfd_create("understudy-images"), "w+b")
    _fill(file, decoding, table)
    kept = Kept(decoding, f"/proc/{os.getpid()}/fd/{file.fileno()}")
    weakref.finalize(kept, file.close)
    return kept


def _fill_file(decoding: Decoding, table: Tensor, path: Path) -> Kept:
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(beside, "w+b") as file:
            _fill(file, decoding, table)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return Kept(decoding, str(path))


def _fill(file: BinaryIO, decoding: Decoding, table: Tensor) -> None:
    """Write the pixels of all images, then the table, without those that are not what their headers say."""
    lock = threading.Lock()

    def write(row: int) -> bool:
        start, *size = table[row].tolist()
        try:
            pixels = decoding.pixels(row)
        except Unreadable:
            return False
        if list(pixels.shape[:2]) != size:
            return False
        with lock:
            file.seek(start)
            file.write(pixels.numpy().data)
        return True

    file.truncate(_end(table, decoding.channels))
    found = torch.tensor(map_threads(write, range(len(decoding))))
    starts = torch.where(found, table[:, 0], -1)
    file.seek(0)
    file.write(torch.cat([starts[:, None], table[:, 1:]], 1).numpy().data)
    file.flush()


def _size(kept: Kept) -> int:
    return os.stat(kept.path).st_size


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
