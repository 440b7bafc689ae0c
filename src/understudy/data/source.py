"""A dataset split: arrays in memory, or records that are decoded on the fly."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, BinaryIO, ClassVar, NamedTuple, Protocol, Self, TypeVar
from zipfile import BadZipFile

import torch
from PIL import Image
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.randomness import mix, name_key

A = TypeVar("A")
R = TypeVar("R")
_HASHED_TOGETHER = 1_000  # rows of an array


class Unreadable(Exception):
    """A record cannot be decoded. The message is the reason; the same fault always has the same message."""


READ_ERRORS = (OSError, KeyError, Unreadable, BadZipFile, zlib.error, EOFError, NotImplementedError)
"""What reading the bytes of a record raises: a missing file or member, a damaged archive, an unknown compression."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Size of the upright image in pixels, and whether it is gray."""

    width: int
    height: int
    gray: bool


class Stamp(NamedTuple):
    """What is known of a record's contents without reading them: of unequal stamps one may have other contents."""

    size: int  # bytes to read
    changed: int  # time of the last change, or a checksum; 0 if unknown


class Record(Protocol):
    """An image that has not been decoded yet; reading raises `Unreadable`."""

    @property
    def name(self) -> str: ...
    @property
    def nbytes(self) -> int:
        """Bytes of the encoded image; 0 if it cannot be read, -1 if that is not known without much reading."""
        ...

    def open(self) -> BinaryIO:
        """A stream of these bytes; raises OSError or KeyError if they are missing."""
        ...

    def stamp(self) -> Stamp: ...
    def digest(self) -> int:
        """A hash of the contents, or of what they are part of, to tell a change; equal for all that cannot be read."""
        ...

    def header(self) -> ImageHeader: ...
    def read(self, least: int = 0) -> Image.Image:
        """Decode to an upright "L" or "RGB" image.

        If `least` is set, it may be smaller than it was stored, with no less than that many pixels on its shorter side.
        """
        ...


@dataclass(frozen=True)
class Source:
    """Samples with stable ids."""

    name: str  # of the dataset, used in messages
    classes: tuple[str, ...]  # names by index; empty if unlabeled
    ids: Tensor  # (N,) int64, unique; a sample keeps its id in every subset
    targets: Tensor | None  # (N,) int64 class indices, -1 without a label; None where no sample has one
    shape: tuple[int, ...]  # of a sample: (C, H, W) for images or (D,) for vectors
    skipped: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)  # (name, reason) of unreadable records
    notes: tuple[str, ...] = field(default=(), kw_only=True)  # what the user should know of how it was opened
    modality: str = field(default="image", kw_only=True)
    pairs: Mapping[str, Source] = field(default_factory=dict, kw_only=True)  # the same samples in other modalities

    hashed: ClassVar[int] = 0  # bytes of the contents that `fingerprint` reads at most

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def labeled(self) -> bool:
        """Whether every sample has a label."""
        return self.targets is not None and bool((self.targets >= 0).all())

    @property
    def modalities(self) -> dict[str, Source]:
        """All modalities by name, this source first."""
        return {self.modality: self, **self.pairs}

    def subset(self, rows: Tensor) -> Self:
        """The samples at these row indices (int64), with their ids and all classes."""
        if len(rows) == 0:
            raise UnderstudyError(f"no samples of {self.name} are left; omit fewer classes")
        targets = None if self.targets is None else self.targets[rows]
        pairs = {name: pair.subset(rows) for name, pair in self.pairs.items()}
        return replace(self, ids=self.ids[rows], targets=targets, pairs=pairs, **self._select(rows))

    def sample_name(self, row: int) -> str:
        """What messages call a sample."""
        return self.sample_names[row] if self.sample_names else f"sample {int(self.ids[row])}"

    def sizes(self) -> Tensor | None:
        """(N,) int64 bytes that are stored of each sample, as in `Record.nbytes`; None if samples share their bytes."""
        return None

    def content_hashes(self, rows: Sequence[int]) -> list[bytes]:
        """Digests of the stored bytes of some samples; empty for those that cannot be read."""
        return [b""] * len(rows)

    def _select(self, rows: Tensor) -> dict[str, object]:
        """The subclass's own fields for a subset."""
        return {}

    @property
    def sample_names(self) -> Sequence[str]:
        """What a user calls each sample; empty where only its position says."""
        return ()

    def stamps(self) -> Tensor:
        """(N, 2) int64: the `Stamp` of each sample."""
        return torch.zeros(len(self), 2, dtype=torch.int64)

    def digests(self, rows: Tensor) -> list[int]:
        """A hash of the contents of the samples at these row indices."""
        return [0] * len(rows)


@dataclass(frozen=True)
class ArraySource(Source):
    """A source held in memory: `inputs` is (N, *shape), uint8 images or float32; `names` are of files, if any."""

    hashed: ClassVar[int] = 512 * 2**20

    inputs: Tensor = field(default_factory=lambda: torch.empty(0), kw_only=True)
    names: Sequence[str] = field(default=(), kw_only=True)

    def _select(self, rows: Tensor) -> dict[str, object]:
        return {"inputs": self.inputs[rows], "names": [self.names[i] for i in rows.tolist()] if self.names else ()}

    @property
    def sample_names(self) -> Sequence[str]:
        return self.names

    def sizes(self) -> Tensor | None:
        return torch.full((len(self),), self.inputs[0].numel() * self.inputs.element_size())

    def content_hashes(self, rows: Sequence[int]) -> list[bytes]:
        array = self.inputs.numpy(force=True)
        return [blake2b(array[row].tobytes(), digest_size=16).digest() for row in rows]

    def stamps(self) -> Tensor:
        return torch.tensor([[self.inputs[torch.tensor([0])].nbytes, 0]]).expand(len(self), 2)

    def digests(self, rows: Tensor) -> list[int]:
        found = []
        for part in rows.split(_HASHED_TOGETHER):
            found += [digest_of(row) for row in self.inputs[part].cpu().flatten(1).numpy()]
        return found


@dataclass(frozen=True)
class RecordSource(Source):
    """A source of images that loader workers decode and resize to `shape`.

    Without augmentation they crop the center square, whose side is `center` of the shorter one, or, with
    `resize_whole`, ignore the aspect ratio.
    """

    hashed: ClassVar[int] = 64 * 2**20

    resize_whole: bool = field(default=False, kw_only=True)
    center: float = field(default=1.0, kw_only=True)
    records: Sequence[Record] = field(default=(), kw_only=True)

    def sample_name(self, row: int) -> str:
        return self.records[row].name

    def sizes(self) -> Tensor | None:
        return torch.tensor(map_threads(lambda record: record.nbytes, self.records), dtype=torch.int64)

    def content_hashes(self, rows: Sequence[int]) -> list[bytes]:
        return map_threads(_digest, [self.records[row] for row in rows])

    def _select(self, rows: Tensor) -> dict[str, object]:
        return {"records": [self.records[i] for i in rows.tolist()]}

    @property
    def sample_names(self) -> Sequence[str]:
        return [record.name for record in self.records]

    def stamps(self) -> Tensor:
        return torch.tensor(map_threads(lambda record: record.stamp(), self.records), dtype=torch.int64)

    def digests(self, rows: Tensor) -> list[int]:
        return map_threads(lambda record: record.digest(), [self.records[i] for i in rows.tolist()])


def digest_of(data: Any) -> int:
    """A hash of bytes, or of a contiguous array's: 63 bits, never 0.

    >>> digest_of(b"cat") == digest_of(b"cat"), digest_of(b"cat") == digest_of(b"dog")
    (True, False)
    """
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> 1 or 1


def map_threads(function: Callable[[A], R], values: Sequence[A]) -> list[R]:
    """Map in threads: file access and Pillow's decoders release the GIL, and a network drive answers slowly."""
    threads = min(16, (os.cpu_count() or 1) * 4)
    together = max(1, min(200, len(values) // (4 * threads)))  # as a task of its own would cost more than a `stat`
    parts = [values[start : start + together] for start in range(0, len(values), together)]
    with ThreadPoolExecutor(threads) as pool:
        return [result for part in pool.map(lambda part: list(map(function, part)), parts) for result in part]


def _digest(record: Record) -> bytes:
    state = blake2b(digest_size=16)
    try:
        with record.open() as stream:
            while chunk := stream.read(2**20):
                state.update(chunk)
    except READ_ERRORS:
        return b""
    return state.digest()


def resize_square(source: Source, side: int) -> Source:
    """Have records and their pairs resized whole to `side` x `side` pixels; arrays are left as they are."""
    pairs = {name: resize_square(pair, side) for name, pair in source.pairs.items()}
    if isinstance(source, RecordSource):
        return replace(source, shape=(source.shape[0], side, side), resize_whole=True, pairs=pairs)
    return replace(source, pairs=pairs)


def concatenated(first: Source, second: Source) -> Source:
    """Two splits of one dataset, one after the other."""
    assert first.classes == second.classes
    assert first.pairs.keys() == second.pairs.keys()
    labeled = first.targets is not None and second.targets is not None
    targets = torch.cat([first.targets, second.targets]) if labeled else None  # type: ignore[list-item]
    pairs = {name: concatenated(pair, second.pairs[name]) for name, pair in first.pairs.items()}
    merged = _concatenate(first, second, ids=torch.cat([first.ids, second.ids]), targets=targets, pairs=pairs)
    assert merged is not None
    return merged


def with_unlabeled(first: Source, second: Source) -> Source:
    """Two datasets as one, of which the first keeps its labels.

    Raises:
        UnderstudyError: their shapes differ, or only one of them is held in memory.
    """
    if first.shape != second.shape or first.pairs or second.pairs:
        raise UnderstudyError(
            f"{first.name} ({_describe(first)}) and {second.name} ({_describe(second)}) have different shapes and "
            "cannot be merged; resize both with --size"
        )
    ids = torch.cat([first.ids, mix(name_key("second"), second.ids)])  # ids of arrays start from 0 in both
    name = f"{first.name} and {second.name}"
    targets = None if first.targets is None else torch.cat([first.targets, second.ids.new_full((len(second),), -1)])
    merged = _concatenate(first, second, name=name, classes=first.classes, ids=ids, targets=targets)
    if merged is None:
        raise UnderstudyError(f"only one of {name} fits in memory, so they cannot be merged; resize both with --size")
    return merged


def _concatenate(first: Source, second: Source, **fields: Any) -> Source | None:
    """Concatenate the samples of two sources; None if only one is held in memory."""
    fields["skipped"] = first.skipped + second.skipped
    fields["notes"] = tuple(dict.fromkeys(first.notes + second.notes))
    if isinstance(first, ArraySource) and isinstance(second, ArraySource):
        names = [*first.names, *second.names] if first.names and second.names else ()
        return replace(first, **fields, inputs=torch.cat([first.inputs, second.inputs]), names=names)
    if isinstance(first, RecordSource) and isinstance(second, RecordSource):
        return replace(first, **fields, records=[*first.records, *second.records])
    return None


def _describe(source: Source) -> str:
    return "x".join(map(str, source.shape)) + (", several modalities" if source.pairs else "")


@dataclass(frozen=True)
class Splits:
    """The splits of a dataset; a validation split exists only together with a test split."""

    train: Source
    test: Source | None = None
    validation: Source | None = None

    @classmethod
    def from_dict(cls, splits: Mapping[str, Source]) -> Splits:
        """From "train" and optionally "test" and "validation", which without a test split becomes the test split."""
        train, test, validation = splits["train"], splits.get("test"), splits.get("validation")
        return cls(train, validation) if test is None else cls(train, test, validation)
