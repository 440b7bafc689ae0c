"""From records to a source: whole arrays where the set is small and of one size, else records to decode."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Protocol, TypeVar, cast

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
_MEASURED = 500

Part = str
"""One of "train", "validation", "test"."""
PARTS = ("train", "validation", "test")
_SPELLINGS = {"training": "train", "testing": "test"} | dict.fromkeys(("val", "valid", "dev"), "validation")

R = TypeVar("R")
T = TypeVar("T", bound=Source)
Shape = tuple[int, int, int]


class Headed(Record, Protocol):
    """A record that can tell its image's size before it is decoded."""

    def head(self) -> Head: ...


@dataclass(frozen=True)
class Records:
    """A part of a set before anything is decoded.

    Attributes:
        records: N of them.
        ids, targets: (N,) int64.
        keys: N names that a sample's pair is found by; empty where there are none.
        pairs: the samples' records in other modalities, N in each.
    """

    records: Sequence[Headed]
    ids: Tensor
    targets: Tensor | None
    keys: Sequence[str] = ()
    pairs: Mapping[str, Sequence[Headed]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def modalities(self) -> dict[str, Sequence[Headed]]:
        return {"image": self.records, **self.pairs}

    def keep(self, rows: Sequence[int]) -> Records:
        targets = None if self.targets is None else self.targets[list(rows)]
        keys = [self.keys[i] for i in rows] if self.keys else ()
        pairs = {name: [records[i] for i in rows] for name, records in self.pairs.items()}
        return Records([self.records[i] for i in rows], self.ids[list(rows)], targets, keys, pairs)


@dataclass(frozen=True)
class Listed:
    """A set's parts before anything is decoded; `look_at_all` is false where headers are as dear as images."""

    name: str
    classes: tuple[str, ...]
    parts: Mapping[Part, Records]
    look_at_all: bool = True


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


def pair_key(path: str) -> str:
    """What a file is matched with its pair by: its relative path without the suffix."""
    return os.path.splitext(path)[0]


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


def gather(listed: Listed, size: int | None) -> Splits:
    """Make sources of records; all parts and all modalities become the same kind, with the same height and width.

    Arrays, (N, C, H, W) uint8 with C = 1 where all images are grey, if all images have one size (a square one
    where it is not the `size` asked for, to which they are then brought) and take at most `ARRAY_BYTES`; else
    records of shape (3, size, size), or (1, size, size) for grey pairs, `size` being 224 by default.

    Every header is read first and what is unreadable set aside, a sample with all its modalities; where not all
    are looked at, only a few are.
    """
    asides: dict[Part, list[tuple[str, str]]] = {part: [] for part in listed.parts}
    heads: dict[str, set[Head]] = {}
    readable: dict[Part, Records] = {}
    for part, records in listed.parts.items():
        every = 1 if listed.look_at_all else max(1, len(records) // _LOOKED_AT)
        found = {name: _each(_head, own[::every]) for name, own in records.modalities.items()}
        for name, own in found.items():
            heads.setdefault(name, set()).update(head for head in own if isinstance(head, Head))
        if every == 1:
            records = _without(listed, part, records, found.values(), asides[part])
        readable[part] = records

    def made(part: Part, records: Records, modality: str, kind: type[T], shape: Shape, /, **rest: Any) -> T:
        named = {"set_aside": tuple(asides[part]), "modality": modality}
        return kind(listed.name, listed.classes, records.ids, records.targets, shape, **named, **rest)

    stored = {(head.width, head.height) for own in heads.values() for head in own}
    shapes = _array_shapes(heads, stored, sum(map(len, readable.values())), size)
    if shapes is not None:
        arrays = {
            part: {name: _decoded(own, shapes[name], stored) for name, own in records.modalities.items()}
            for part, records in readable.items()
        }
        # A header may promise what the pixels do not keep; then each image is taken as it comes.
        if all(inputs is not None for own in arrays.values() for inputs, _ in own.values()):
            parts: dict[Part, Source] = {}
            for part, own in arrays.items():
                faults = [found for _, found in own.values()]
                left = _without(listed, part, readable[part], faults, asides[part])
                good = torch.tensor([not any(row) for row in zip(*faults, strict=True)])
                each = {
                    name: made(part, left, name, ArraySource, shapes[name], inputs=_some(inputs, good))
                    for name, (inputs, _) in own.items()
                }
                parts[part] = _joined(each)
            return as_splits(parts)
    side = size or DEFAULT_SIZE
    colour = {name: name == "image" or not all(head.grey for head in own) for name, own in heads.items()}
    return as_splits(
        {
            part: _joined(
                {
                    name: made(part, records, name, RecordSource, (3 if colour[name] else 1, side, side), records=own)
                    for name, own in records.modalities.items()
                }
            )
            for part, records in readable.items()
        }
    )


def _some(inputs: Tensor | None, good: Tensor) -> Tensor:
    assert inputs is not None
    return inputs if bool(good.all()) else inputs[good]


def _joined(each: dict[str, T]) -> Source:
    """The image's source, with those of the other modalities as its pairs."""
    return replace(each.pop("image"), pairs=each)


def _each(function: Callable[[Headed], R], records: Sequence[Headed]) -> list[R]:
    """Map over records in a few threads: files and Pillow's decoders let go of the interpreter."""
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) * 2)) as pool:
        return list(pool.map(function, records))


def _head(record: Headed) -> Head | Unreadable:
    try:
        return record.head()
    except Unreadable as fault:
        return fault


def typical_size(source: Source) -> tuple[int, int]:
    """(height, width) in pixels of the image of median area, as stored; of records up to 500 headers are read.

    Raises:
        UnderstudyError: the samples are not images, or not one of those looked at can be read.
    """
    if len(source.shape) != 3:
        raise UnderstudyError(f"{source.name} holds vectors, which have no size in pixels; give images")
    if not isinstance(source, RecordSource):
        return source.shape[1], source.shape[2]
    records = cast("Sequence[Headed]", source.records)[:: -(-len(source) // _MEASURED)]
    heads = sorted(
        (one.width * one.height, one.height, one.width) for one in _each(_head, records) if isinstance(one, Head)
    )
    if not heads:
        raise UnderstudyError(f"no image of {source.name} can be read; check its files")
    return heads[len(heads) // 2][1:]


def _array_shapes(
    heads: Mapping[str, set[Head]], stored: Set[tuple[int, int]], n: int, size: int | None
) -> dict[str, Shape] | None:
    """(C, H, W) of each modality if the images, whose widths and heights are `stored`, can be arrays."""
    if len(stored) != 1:
        return None
    width, height = next(iter(stored))
    if size is not None and (width, height) != (size, size):
        if width != height:
            return None  # each would have to be cut, and where is for each view to say
        width = height = size
    channels = {name: 1 if all(head.grey for head in own) else 3 for name, own in heads.items()}
    if n * sum(channels.values()) * height * width > ARRAY_BYTES:
        return None
    return {name: (count, height, width) for name, count in channels.items()}


def _decoded(
    records: Sequence[Headed], shape: Shape, stored: Set[tuple[int, int]]
) -> tuple[Tensor | None, list[Unreadable | None]]:
    """All images as (N, *shape) uint8, and what was wrong with each; no array if one has not the size stored."""
    channels, height, width = shape
    inputs = np.zeros((len(records), *shape), np.uint8)

    def fill(row: int) -> Unreadable | bool:
        try:
            image = records[row].read()
        except Unreadable as fault:
            return fault
        if image.size not in stored or (channels == 1 and image.mode != "L"):
            return False
        image = image if channels == 1 else image.convert("RGB")
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))  # a copy, where they are alike
        inputs[row] = pixels.reshape(height, width, channels).transpose(2, 0, 1)
        return True

    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) * 2)) as pool:
        outcomes = list(pool.map(fill, range(len(records))))
    if any(outcome is False for outcome in outcomes):
        return None, []
    reasons = [outcome if isinstance(outcome, Unreadable) else None for outcome in outcomes]
    return torch.from_numpy(inputs), reasons


def _without(
    listed: Listed,
    part: Part,
    records: Records,
    found: Iterable[Sequence[object]],
    aside: list[tuple[str, str]],
) -> Records:
    """The records for which no modality was found unreadable; the others' names and reasons go to `aside`."""
    name, classes = listed.name, listed.classes
    bad = {i: str(fault) for own in found for i, fault in enumerate(own) if isinstance(fault, Unreadable)}
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
