"""From records to a source: whole arrays where the set is small and of one size, else records to decode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from os import cpu_count
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from understudy.data.decode import Head
from understudy.data.records import printable
from understudy.data.source import ArraySource, Record, RecordSource, Source, Splits, Unreadable
from understudy.errors import UnderstudyError
from understudy.randomness import name_key, uniform

ARRAY_BYTES = 512 * 2**20
"""Images of one size that take no more than this, decoded, are held as arrays."""
DEFAULT_SIZE = 224
TEST_SHARE = 0.2
_LOOKED_AT = 64

Part = str
"""One of "train", "validation", "test"."""
PARTS = ("train", "validation", "test")
_SPELLINGS = {"training": "train", "testing": "test"} | dict.fromkeys(("val", "valid", "dev"), "validation")

R = TypeVar("R")


class Headed(Record, Protocol):
    """A record that can tell its image's size before it is decoded."""

    def head(self) -> Head: ...


@dataclass(frozen=True)
class Records:
    """A part of a set before anything is decoded: N records, their ids and targets, (N,) int64."""

    records: Sequence[Headed]
    ids: Tensor
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.records)

    def keep(self, rows: Sequence[int]) -> Records:
        targets = None if self.targets is None else self.targets[list(rows)]
        return Records([self.records[i] for i in rows], self.ids[list(rows)], targets)


def part_of(word: str) -> Part | None:
    """The part that a folder or a column's value names, or None."""
    word = word.lower()
    return word if word in PARTS else _SPELLINGS.get(word)


def path_ids(name: str, paths: Sequence[str]) -> Tensor:
    """(N,) int64: 63 bits of BLAKE2 of each path, so that an id depends on the file's own path alone."""
    digests = [blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest() for path in paths]
    ids = [int.from_bytes(digest, "big") >> 1 for digest in digests]
    if len(set(ids)) < len(ids):
        again = next(paths[i] for i, count in enumerate(map(Counter(ids).__getitem__, ids)) if count > 1)
        raise UnderstudyError(f"{name} lists {printable(again)!r} more than once; keep one row each")
    return torch.tensor(ids, dtype=torch.int64)


def position_ids(n: int, part: Part = "train") -> Tensor:
    """(n,) int64: the positions in a part; no two parts share an id."""
    return torch.arange(n) + (PARTS.index(part) << 40)


def falls_to_test(ids: Tensor, targets: Tensor, seed: int) -> Tensor:
    """(N,) bool, about a fifth of each class. Each sample's own hash decides, so that others can come and go.

    Only where that would leave a class without a training sample is its highest hash kept back.
    """
    draw = uniform(ids, seed ^ name_key("test part"))
    test = draw < TEST_SHARE
    for c in torch.unique(targets[test]).tolist():
        rows = torch.nonzero(targets == c).flatten()
        if bool(test[rows].all()):
            test[rows[draw[rows].argmax()]] = False
    return test


def as_splits(parts: Mapping[Part, Source]) -> Splits:
    """Where there is a validation part and no test part, it serves as the test part."""
    train, test, validation = (parts.get(part) for part in ("train", "test", "validation"))
    assert train is not None
    return Splits(train, validation, None) if test is None else Splits(train, test, validation)


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Refuse a labelled set of a single class."""
    if len(classes) == 1:
        raise UnderstudyError(
            f"{name} has only one class, {classes[0]!r}; a classifier needs at least two to tell apart"
        )


def gather(
    name: str,
    classes: tuple[str, ...],
    parts: Mapping[Part, Records],
    size: int | None,
    *,
    look_at_all: bool = True,
) -> Splits:
    """Make sources of records; all parts become the same kind, with the same shape.

    Arrays, (N, C, H, W) uint8 with C = 1 where all images are grey, if all images have one size (a square one
    where it is not the `size` asked for, to which they are then brought) and take at most `ARRAY_BYTES`; else
    records of shape (3, size, size), `size` being 224 by default.

    Every header is read first and what is unreadable set aside; without `look_at_all`, for records whose
    headers are as dear as their images, only a few are looked at.
    """
    asides: dict[Part, list[tuple[str, str]]] = {part: [] for part in parts}
    heads: set[Head] = set()
    readable: dict[Part, Records] = {}
    for part, records in parts.items():
        every = 1 if look_at_all else max(1, len(records) // _LOOKED_AT)
        found = _each(_head, records.records[::every])
        heads.update(head for head in found if isinstance(head, Head))
        if every == 1:
            records = _without(name, classes, part, records, found, asides[part])
        readable[part] = records
    common = {(head.width, head.height) for head in heads}
    shape = _array_shape(heads, common, sum(map(len, readable.values())), size)
    if shape is not None:
        (stored,) = common
        arrays = {part: _decoded(records, stored, shape) for part, records in readable.items()}
        # A header may promise what the pixels do not keep; then each image is taken as it comes.
        if all(inputs is not None for inputs, _ in arrays.values()):
            made: dict[Part, Source] = {}
            for part, (inputs, found) in arrays.items():
                left = _without(name, classes, part, readable[part], found, asides[part])
                rows = [i for i, reason in enumerate(found) if reason is None]
                assert inputs is not None
                kept = inputs if len(rows) == len(inputs) else inputs[rows]
                made[part] = ArraySource(
                    name, classes, left.ids, left.targets, shape, set_aside=tuple(asides[part]), inputs=kept
                )
            return as_splits(made)
    side = size or DEFAULT_SIZE
    return as_splits(
        {
            part: RecordSource(
                name, classes, records.ids, records.targets, (3, side, side),
                set_aside=tuple(asides[part]), records=records.records,
            )
            for part, records in readable.items()
        }
    )  # fmt: skip


def _each(function: Callable[[Headed], R], records: Sequence[Headed]) -> list[R]:
    """Map over records in a few threads: files and Pillow's decoders let go of the interpreter."""
    with ThreadPoolExecutor(min(16, (cpu_count() or 1) * 2)) as pool:
        return list(pool.map(function, records))


def _head(record: Headed) -> Head | Unreadable:
    try:
        return record.head()
    except Unreadable as fault:
        return fault


def _array_shape(
    heads: Iterable[Head], common: Set[tuple[int, int]], n: int, size: int | None
) -> tuple[int, int, int] | None:
    """(C, H, W) if the images can be one array."""
    if len(common) != 1:
        return None
    width, height = next(iter(common))
    if size is not None and (width, height) != (size, size):
        if width != height:
            return None  # each would have to be cut, and where is for each view to say
        width = height = size
    channels = 1 if all(head.grey for head in heads) else 3
    return (channels, height, width) if n * channels * height * width <= ARRAY_BYTES else None


def _decoded(
    records: Records, stored: tuple[int, int], shape: tuple[int, int, int]
) -> tuple[Tensor | None, list[Unreadable | None]]:
    """All images, of `stored` (width, height), as (N, *shape) uint8, and what was wrong with each.

    No array if one image has another size than its header said.
    """
    channels, height, width = shape
    inputs = np.zeros((len(records), *shape), np.uint8)

    def fill(row: int) -> Unreadable | bool:
        try:
            image = records.records[row].read()
        except Unreadable as fault:
            return fault
        if image.size != stored or (channels == 1 and image.mode != "L"):
            return False
        image = image if channels == 1 else image.convert("RGB")
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))  # a copy, where they are alike
        inputs[row] = pixels.reshape(height, width, channels).transpose(2, 0, 1)
        return True

    with ThreadPoolExecutor(min(16, (cpu_count() or 1) * 2)) as pool:
        outcomes = list(pool.map(fill, range(len(records))))
    if any(outcome is False for outcome in outcomes):
        return None, []
    reasons = [outcome if isinstance(outcome, Unreadable) else None for outcome in outcomes]
    return torch.from_numpy(inputs), reasons


def _without(
    name: str,
    classes: tuple[str, ...],
    part: Part,
    records: Records,
    found: Sequence[object],
    aside: list[tuple[str, str]],
) -> Records:
    """The records for which nothing unreadable was found; the others' names and reasons go to `aside`."""
    bad = {i: str(reason) for i, reason in enumerate(found) if isinstance(reason, Unreadable)}
    if not bad:
        return records
    aside += [(records.records[i].name, reason) for i, reason in bad.items()]
    kept = records.keep([i for i in range(len(records)) if i not in bad])
    counts = _counts(reason for _, reason in aside)
    if len(kept) == 0:
        raise UnderstudyError(
            f"no image of {name}'s {part} part can be read ({counts}); replace them with whole image files"
        )
    if part == "train" and kept.targets is not None and records.targets is not None:
        lost = set(records.targets.tolist()) - set(kept.targets.tolist())
        if lost:
            raise UnderstudyError(
                f"no training image of class {classes[min(lost)]!r} in {name} can be read ({counts} in all "
                "classes); replace its images or take the class out"
            )
    return kept


def _counts(reasons: Iterable[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in Counter(reasons).most_common())
