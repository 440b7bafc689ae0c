"""Toy sources, and batches as tensors, for the tests of batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from understudy.data import ArraySource, RecordSource, open_source
from understudy.data.augment import Augmentation
from understudy.signals import Batch

CPU = torch.device("cpu")
MOVING = Augmentation(translate=2, flip=True)


def arrays(n: int = 23) -> ArraySource:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 256, (n, 1, 6, 5), generator=generator, dtype=torch.uint8)
    ids, targets = torch.arange(n) * 10 + 3, torch.arange(n) % 3
    return ArraySource("toy", ("a", "b", "c"), ids, targets, (1, 6, 5), inputs=inputs)


def folder(path: Path, n: int = 14) -> RecordSource:
    rng = np.random.default_rng(0)
    for k in range(n):
        place = path / "train" / ("cat" if k % 2 else "dog") / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + k, 50, 3), dtype=np.uint8)).save(place)
    test = path / "test" / "cat"
    test.mkdir(parents=True)
    (path / "test" / "dog").mkdir()
    for part in ("cat", "dog"):
        Image.new("RGB", (40, 40)).save(path / "test" / part / "t.png")
    source = open_source(path, size=32).train
    assert isinstance(source, RecordSource)
    assert len(source) == n
    return source


def joined(batches: Iterable[Batch]) -> tuple[Tensor, ...]:
    parts = [(b.ids, b.view, b.inputs, b.targets) for b in batches]
    return tuple(torch.cat([x for x in column if isinstance(x, Tensor)]) for column in zip(*parts, strict=True))


def equal(one: Iterable[Batch], two: Iterable[Batch]) -> None:
    for a, b in zip(joined(one), joined(two), strict=True):
        assert torch.equal(a, b)
