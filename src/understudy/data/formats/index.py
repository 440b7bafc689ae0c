"""What file-based readers return: an index of records, of which nothing has been decoded yet."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from understudy.data.formats.records import escape_name
from understudy.data.select import TEST_FRACTION, stratified_mask
from understudy.data.source import Record
from understudy.errors import UnderstudyError

SplitName = str
"""One of `SPLIT_NAMES`."""
SPLIT_NAMES = ("train", "validation", "test")
_ALIASES = {"training": "train", "testing": "test"} | dict.fromkeys(("val", "valid", "dev"), "validation")


@dataclass(frozen=True)
class SplitIndex:
    """The N records of a split, with ids and targets (N,) int64, and N records per further modality in `pairs`.

    `keys` are N names by which samples are matched across modalities; empty if there are none.
    """

    records: Sequence[Record]
    ids: Tensor
    targets: Tensor | None
    keys: Sequence[str] = ()
    pairs: Mapping[str, Sequence[Record]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def modalities(self) -> dict[str, Sequence[Record]]:
        return {"image": self.records, **self.pairs}

    def subset(self, rows: Sequence[int]) -> SplitIndex:
        targets = None if self.targets is None else self.targets[list(rows)]
        keys = [self.keys[i] for i in rows] if self.keys else ()
        pairs = {name: [records[i] for i in rows] for name, records in self.pairs.items()}
        return SplitIndex([self.records[i] for i in rows], self.ids[list(rows)], targets, keys, pairs)


@dataclass(frozen=True)
class DatasetIndex:
    """The splits of a dataset.

    Attributes:
        scan: whether to read every image header up front, unless that means decoding.
        divisible: whether a test split may be held out where there is a training split only.
        notes: what the user should know of how it was opened, a line each.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[SplitName, SplitIndex]
    scan: bool = True
    divisible: bool = True
    notes: tuple[str, ...] = ()


def parse_split(name: str) -> SplitName | None:
    """The split that a folder or column value stands for, or None.

    >>> parse_split("Val"), parse_split("cats")
    ('validation', None)
    """
    name = name.lower()
    return name if name in SPLIT_NAMES else _ALIASES.get(name)


def split_of_file(path: Path) -> SplitName | None:
    """The split that a file's name starts with, as in train-00000-of-00002.parquet, or None."""
    return parse_split(re.split(r"[-_.]", path.name)[0])


def files_by_split(paths: Iterable[Path]) -> dict[SplitName, list[Path]]:
    """Group files by split; those whose names start with none are for training."""
    files: dict[SplitName, list[Path]] = {}
    for path in paths:
        files.setdefault(split_of_file(path) or "train", []).append(path)
    return files


def path_ids(name: str, paths: Sequence[str]) -> Tensor:
    """(N,) int64 ids: 63 bits of the BLAKE2 hash of each path, so that an id depends only on the file's own path."""
    digests = [blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest() for path in paths]
    ids = [int.from_bytes(digest, "big") >> 1 for digest in digests]
    if len(set(ids)) < len(ids):
        duplicate = next(paths[i] for i, count in enumerate(map(Counter(ids).__getitem__, ids)) if count > 1)
        raise UnderstudyError(f"{name} lists {escape_name(duplicate)!r} more than once; remove the duplicates")
    return torch.tensor(ids, dtype=torch.int64)


def position_ids(n: int, split: SplitName = "train") -> Tensor:
    """(n,) int64 ids: positions in a split, unique across splits."""
    return torch.arange(n) + (SPLIT_NAMES.index(split) << 40)


def pair_key(path: str) -> str:
    """Key that matches a file with its counterpart in another modality: the relative path without extension."""
    return unicodedata.normalize("NFC", os.path.splitext(path)[0])


def divide(index: DatasetIndex, seed: int) -> DatasetIndex:
    """Hold out a fifth for testing, by `stratified_mask`, of labeled data that has a training split only."""
    train = index.splits["train"]
    if len(index.splits) > 1 or train.targets is None or not index.divisible:
        return index
    test = stratified_mask(train.ids, train.targets, TEST_FRACTION, seed)
    rows = {"train": (~test).nonzero().flatten().tolist(), "test": test.nonzero().flatten().tolist()}
    return replace(index, splits={split: train.subset(part) for split, part in rows.items() if part})
