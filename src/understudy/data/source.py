"""What a set of samples is: whole arrays, or records to decode one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.randomness import mix, name_key


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


def lengthened(first: Source, second: Source) -> Source:
    """The samples of two parts of one set as one part."""
    assert first.classes == second.classes
    assert first.pairs.keys() == second.pairs.keys()
    both = first.targets is not None and second.targets is not None
    whole = replace(
        first,
        ids=torch.cat([first.ids, second.ids]),
        targets=torch.cat([first.targets, second.targets]) if both else None,  # type: ignore[list-item]
        set_aside=first.set_aside + second.set_aside,
        pairs={name: lengthened(pair, second.pairs[name]) for name, pair in first.pairs.items()},
    )
    if isinstance(whole, ArraySource) and isinstance(second, ArraySource):
        return replace(whole, inputs=torch.cat([whole.inputs, second.inputs]))
    assert isinstance(whole, RecordSource)
    assert isinstance(second, RecordSource)
    return replace(whole, records=[*whole.records, *second.records])


def joined(first: Source, second: Source) -> Source:
    """The samples of two sets as one, without labels.

    Raises:
        UnderstudyError: they are of different shapes, or one is an array and the other is decoded on the fly.
    """
    ids = torch.cat([first.ids, mix(name_key("second"), second.ids)])  # arrays count their samples from 0 alike
    aside = first.set_aside + second.set_aside
    both = {"name": f"{first.name} and {second.name}", "classes": (), "ids": ids, "targets": None, "set_aside": aside}
    if first.shape != second.shape or first.pairs or second.pairs:
        raise UnderstudyError(
            f"{first.name} has samples of {_by(first)} and {second.name} of {_by(second)}, which cannot be learnt "
            "from side by side; bring both to one size with --size"
        )
    if isinstance(first, ArraySource) and isinstance(second, ArraySource):
        return replace(first, **both, inputs=torch.cat([first.inputs, second.inputs]))
    if isinstance(first, RecordSource) and isinstance(second, RecordSource):
        return replace(first, **both, records=[*first.records, *second.records])
    raise UnderstudyError(
        f"of {first.name} and {second.name} one fits into memory whole and the other does not; bring both to one size "
        "with --size"
    )


def _by(source: Source) -> str:
    return "x".join(map(str, source.shape)) + (" in several modalities" if source.pairs else "")


@dataclass(frozen=True)
class Splits:
    """A data set's training part, its test part if it has one, and its own validation part if it has both."""

    train: Source
    test: Source | None = None
    validation: Source | None = None
