"""VTAB: which of its groups a task is of, and the thousand examples that VTAB-1k learns from.

Zhai et al., "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from understudy.data.select import in_proportion
from understudy.data.source import Splits, lengthened
from understudy.data.subset import Subset, listed
from understudy.errors import UnderstudyError

GROUPS: Mapping[str, tuple[str, ...]] = {
    "natural": ("caltech101", "cifar100", "dtd", "flowers102", "pets", "svhn", "sun397"),
    "specialised": ("pcam", "eurosat", "resisc45", "diabetic-retinopathy"),
    "structured": (
        *("clevr-count", "clevr-distance", "dmlab", "kitti-distance", "dsprites-location", "dsprites-orientation"),
        *("smallnorb-azimuth", "smallnorb-elevation"),
    ),
}
"""The nineteen tasks by the names that named sets have, or that a folder of the rest is to have."""

TRAIN, VALIDATION = 800, 200


def group_of(task: str) -> str:
    """The group of VTAB that a task is of; empty where it is none of VTAB's."""
    return next((group for group, tasks in GROUPS.items() if task in tasks), "")


def vtab_subsets(splits: Splits, seed: int) -> dict[str, Subset]:
    """VTAB-1k's examples of a task: "train800", "val200" and both together, "train800val200".

    The 200 come from the set's own validation part where it has one, else they are a fifth of the thousand. Each is
    drawn by (seed, id), its classes in proportion and each with at least one of the 800; VTAB's own lists follow the
    order of TensorFlow Datasets' files, which torchvision's lack.

    Raises:
        UnderstudyError: a part without labels, or with too few examples or too many classes.
    """
    own = splits.validation is not None
    asked = [(splits.train, TRAIN), (splits.validation, VALIDATION)] if own else [(splits.train, TRAIN + VALIDATION)]
    for part, count in asked:
        assert part is not None
        if len(part) < count:
            raise UnderstudyError(
                f"{part.name} has {len(part):,} examples where VTAB-1k takes {count:,}; leave out --vtab"
            )
    whole = splits.train if splits.validation is None else lengthened(splits.train, splits.validation)
    if splits.validation is not None:
        train = splits.train.subset(in_proportion(splits.train, TRAIN, seed)).ids
        held = splits.validation.subset(in_proportion(splits.validation, VALIDATION, seed, every_class=False)).ids
    else:
        thousand = splits.train.subset(in_proportion(splits.train, TRAIN + VALIDATION, seed))
        rows = in_proportion(thousand, TRAIN, seed)
        train = thousand.subset(rows).ids
        held = thousand.subset(_others(rows, len(thousand))).ids
    parts = {"train800": train, "val200": held, "train800val200": torch.cat([train, held])}
    return {name: Subset(whole.name, 0, seed, 0, listed(whole, ids)) for name, ids in parts.items()}


def _others(rows: Tensor, n: int) -> Tensor:
    left = torch.ones(n, dtype=torch.bool)
    left[rows] = False
    return left.nonzero().flatten()
