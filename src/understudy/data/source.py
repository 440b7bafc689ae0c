"""What a set of samples is: whole arrays, or records to decode one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from understudy.errors import UnderstudyError


class Record(Protocol):
    """One image that has not been decoded yet."""

    @property
    def name(self) -> str: ...

    def read(self, at_least: int = 0) -> Image.Image:
        """Decode to an "L" or "RGB" image, upright; raises `Unreadable`.

        With `at_least`, a big JPEG may come at a half, a quarter or an eighth of its size, which is much
        faster, as long as neither side falls below that many pixels.
        """
        ...


class Unreadable(Exception):
    """A record that cannot be decoded. Its text is the reason, the same words for the same fault."""


@dataclass(frozen=True)
class Source:
    """Samples with stable ids.

    Attributes:
        name: what the user called it.
        classes: the class names in the order of their indices; empty where unlabelled.
        ids: (N,) int64, unique and stable: the same sample keeps its id in every subset.
        targets: (N,) int64, or None where unlabelled.
        shape: one sample's canonical shape, (C, H, W) for images or (D,) for vectors.
        set_aside: (record, reason) for each record that could not be read.
        modality: what it is called among its pairs.
        pairs: the same samples, row for row, in other modalities.
    """

    name: str
    classes: tuple[str, ...]
    ids: Tensor
    targets: Tensor | None
    shape: tuple[int, ...]
    set_aside: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    modality: str = field(default="image", kw_only=True)
    pairs: Mapping[str, Source] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def modalities(self) -> dict[str, Source]:
        """All that there is of each sample, by name: the set itself first."""
        return {self.modality: self, **self.pairs}

    def subset(self, rows: Tensor) -> Source:
        """The samples at these row numbers (int64), keeping their ids and classes."""
        if len(rows) == 0:
            raise UnderstudyError(f"no sample of {self.name} is left; choose fewer classes to omit")
        targets = None if self.targets is None else self.targets[rows]
        pairs = {name: pair.subset(rows) for name, pair in self.pairs.items()}
        return replace(self, ids=self.ids[rows], targets=targets, pairs=pairs)


@dataclass(frozen=True)
class ArraySource(Source):
    """A set small enough to live on the device: `inputs` is (N, *shape), uint8 images or float32."""

    inputs: Tensor = field(default_factory=lambda: torch.empty(0), kw_only=True)

    def subset(self, rows: Tensor) -> ArraySource:
        part = super().subset(rows)
        assert isinstance(part, ArraySource)
        return replace(part, inputs=self.inputs[rows])


@dataclass(frozen=True)
class RecordSource(Source):
    """A set that is decoded by workers while it is used; a sample becomes (C, H, W) of `shape`.

    Attributes:
        squash: whether unvaried images are brought to that square whole, whatever their form; else their centre is.
    """

    squash: bool = field(default=False, kw_only=True)
    records: Sequence[Record] = field(default=(), kw_only=True)

    def subset(self, rows: Tensor) -> RecordSource:
        part = super().subset(rows)
        assert isinstance(part, RecordSource)
        return replace(part, records=[self.records[i] for i in rows.tolist()])


def squashed(source: Source, side: int) -> Source:
    """The same records, to be brought whole to squares of `side` pixels, and their pairs; arrays stay as they are."""
    pairs = {name: squashed(pair, side) for name, pair in source.pairs.items()}
    if isinstance(source, RecordSource):
        return replace(source, shape=(source.shape[0], side, side), squash=True, pairs=pairs)
    return replace(source, pairs=pairs)


@dataclass(frozen=True)
class Splits:
    """A data set's training part, its test part if it has one, and its own validation part if it has both."""

    train: Source
    test: Source | None = None
    validation: Source | None = None
