"""VTAB: task groups, and the 1,000 training examples of VTAB-1k.

Zhai et al., "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from understudy.data.select import stratified_sample
from understudy.data.source import Source, Splits, concatenated
from understudy.data.subset import Subset, manifest_classes
from understudy.errors import UnderstudyError

GROUPS: Mapping[str, tuple[str, ...]] = {
    "natural": ("caltech101", "cifar100", "dtd", "flowers102", "pets", "svhn", "sun397"),
    "specialized": ("pcam", "eurosat", "resisc45", "diabetic-retinopathy"),
    "structured": (
        *("clevr-count", "clevr-distance", "dmlab", "kitti-distance", "dsprites-location", "dsprites-orientation"),
        *("smallnorb-azimuth", "smallnorb-elevation"),
    ),
}
"""The 19 tasks: names of built-in datasets, or the folder names expected for the others."""

TRAIN, VALIDATION = 800, 200


def group_of(task: str) -> str:
    """VTAB group of a task; empty if it is not a VTAB task."""
    return next((group for group, tasks in GROUPS.items() if task in tasks), "")


def vtab_subsets(splits: Splits, seed: int) -> dict[str, Subset]:
    """The VTAB-1k subsets of a task: "train800", "val200", and their union "train800val200".

    The 200 are drawn from the dataset's own validation split if it has one, and from its training split otherwise.
    Draws are stratified, with at least one training example per class. They are keyed by (seed, id) and therefore
    differ from VTAB's own lists, which follow the file order of TensorFlow Datasets.
    """
    train, validation = splits.train, splits.validation
    if validation is not None:
        _check_size(train, TRAIN)
        _check_size(validation, VALIDATION)
        whole = concatenated(train, validation)
        train_ids = train.ids[stratified_sample(train, TRAIN, seed)]
        val_ids = validation.ids[stratified_sample(validation, VALIDATION, seed, every_class=False)]
    else:
        _check_size(train, TRAIN + VALIDATION)
        whole = train
        thousand = train.subset(stratified_sample(train, TRAIN + VALIDATION, seed))
        train_ids = thousand.ids[stratified_sample(thousand, TRAIN, seed)]
        val_ids = thousand.ids[~torch.isin(thousand.ids, train_ids)]
    parts = {"train800": train_ids, "val200": val_ids, "train800val200": torch.cat([train_ids, val_ids])}
    return {name: Subset(whole.name, 0, seed, 0, manifest_classes(whole, ids)) for name, ids in parts.items()}


def _check_size(source: Source, count: int) -> None:
    if len(source) < count:
        raise UnderstudyError(
            f"{source.name} has {len(source):,} examples, fewer than the {count:,} of VTAB-1k; leave out --vtab"
        )
