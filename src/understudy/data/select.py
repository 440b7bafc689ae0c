"""Row selection by class, by fraction, and for held-out splits.

All functions are pure in the source's ids and targets: the same samples are selected regardless of their order or of
what else is in the source. Row indices are returned in ascending order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.data.source import Source, Splits
from understudy.errors import UnderstudyError, nearest
from understudy.randomness import mix, name_key, uniform

TEST_FRACTION = 0.2
"""Held out from datasets without a test split."""


def only_classes(source: Source, names: Sequence[str | int]) -> Tensor:
    """Row indices (int64) of the samples of these classes, given by name or index, and of those without a label.

    >>> source = Source("pets", ("cat", "dog", "fox"), torch.arange(4), torch.tensor([0, 1, 2, 0]), (1,))
    >>> only_classes(source, ["cat", 2])
    tensor([0, 2, 3])
    """
    chosen = _belongs(source, names)
    assert source.targets is not None
    return torch.nonzero(chosen | (source.targets < 0)).flatten()


def omit_classes(source: Source, names: Sequence[str | int]) -> Tensor:
    """Row indices (int64) of all samples except those of these classes, given by name or index.

    >>> source = Source("pets", ("cat", "dog", "fox"), torch.arange(4), torch.tensor([0, 1, 2, 0]), (1,))
    >>> omit_classes(source, ["cat"])
    tensor([1, 2])
    """
    return torch.nonzero(~_belongs(source, names)).flatten()


def fraction(source: Source, f: float, seed: int) -> Tensor:
    """Row indices (int64) of a fraction `f` in (0, 1] of each class, at least one sample per class.

    With the same seed, a smaller fraction is a subset of a larger one.

    >>> source = Source("toy", ("a", "b"), torch.arange(100), torch.arange(100) % 2, (1,))
    >>> source.targets[fraction(source, 0.1, seed=0)].bincount()
    tensor([5, 5])
    """
    if not 0 < f <= 1:
        raise UnderstudyError(f"the fraction of {source.name} must be above 0 and at most 1, not {f}")
    rank, classes = _ranks(source.ids, source.targets, seed, "fraction")
    drawn = (classes.bincount() * f).round().clamp(min=1)
    return torch.nonzero(rank < drawn[classes]).flatten()


def shots(source: Source, count: int, seed: int) -> Tensor:
    """Row indices (int64) of `count` samples per class; with the same seed, fewer shots are a subset of more."""
    if source.targets is None:
        raise UnderstudyError(f"{source.name} has no labels, so {count} shots per class cannot be drawn; label it")
    counts = source.targets.bincount(minlength=len(source.classes))
    for name, available in zip(source.classes, counts.tolist(), strict=True):
        if available < count:
            raise UnderstudyError(
                f"{source.name} has {available} training samples of class {name!r}, fewer than {count} shots; "
                "ask for fewer"
            )
    rank, _ = _ranks(source.ids, source.targets, seed, "shots")
    return torch.nonzero(rank < count).flatten()


def stratified_sample(source: Source, count: int, seed: int, *, every_class: bool = True) -> Tensor:
    """Row indices (int64) of exactly `count` samples, with the class proportions of the source.

    With `every_class`, at least one sample of each class is drawn.

    >>> source = Source("toy", ("a", "b"), torch.arange(100), (torch.arange(100) < 30).long(), (1,))
    >>> source.targets[stratified_sample(source, 10, seed=0)].bincount()
    tensor([7, 3])
    """
    rank, targets = _ranks(source.ids, source.targets, seed, "in proportion")
    available = targets.bincount()
    needed = int((available > 0).sum()) if every_class else 1
    if not needed <= count <= len(source):
        raise UnderstudyError(
            f"cannot draw {count:,} samples from {source.name}, which has {len(source):,} in {needed:,} classes; ask "
            "for at least one per class and no more than there are"
        )
    quota = available * (count / len(source))
    drawn = (available > 0).long() if every_class else torch.zeros_like(available)
    while int(drawn.sum()) < count:  # largest remainder: the class furthest below its quota gets the next sample
        drawn[torch.where(drawn < available, quota - drawn, -torch.inf).argmax()] += 1
    return torch.nonzero(rank < drawn[targets]).flatten()


def stratified_split(source: Source, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row indices (int64) of the samples to keep and to hold out: a share in (0, 1) of each class is held out.

    The share of the whole is exact, and each class has within one sample of its own share, by largest remainder. A
    class of at least two samples has at least one on either side; a class of one is kept.

    >>> source = Source("toy", ("a", "b"), torch.arange(100), torch.arange(100) % 2, (1,))
    >>> kept, held_out = stratified_split(source, 0.2, seed=0)
    >>> source.targets[kept].bincount(), source.targets[held_out].bincount()
    (tensor([40, 40]), tensor([10, 10]))
    """
    if not 0 < share < 1:
        raise UnderstudyError(f"the held-out share of {source.name} must be between 0 and 1, not {share}")
    held_out = stratified_mask(source.ids, source.targets, share, seed)
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def stratified_mask(ids: Tensor, targets: Tensor | None, share: float, seed: int) -> Tensor:
    """(N,) bool mask of the samples that `stratified_split` holds out, from their ids and classes (N,) int64."""
    rank, classes = _ranks(ids, targets, seed, "split")
    counts = classes.bincount()
    quota = counts * share
    most = counts - 1
    held = torch.minimum(quota.long().clamp(min=1), most).clamp(min=0)
    below = torch.where(held < most, quota - held, -torch.inf)
    missing = min(max(round(share * len(ids)) - int(held.sum()), 0), int(below.isfinite().sum()))
    held[torch.argsort(below, descending=True, stable=True)[:missing]] += 1
    return rank < held[classes]


def hold_out_test(source: Source, seed: int) -> Splits:
    """Split into train and test by `stratified_split`; without a test part if every class has one sample."""
    kept, held_out = stratified_split(source, TEST_FRACTION, seed)
    return Splits(source.subset(kept), source.subset(held_out) if len(held_out) else None)


def hash_split(ids: Tensor, targets: Tensor, seed: int) -> Tensor:
    """(N,) bool mask of the test split, about a fifth of the samples; those with the same id stay together.

    Each id is assigned by its own hash. The one exception: a class that would have no training sample keeps the one
    with the highest hash.

    >>> ids, targets = torch.arange(1000), torch.arange(1000) % 2
    >>> round(hash_split(ids, targets, seed=0).float().mean().item(), 1)
    0.2
    """
    draw = uniform(ids, seed ^ name_key("test part"))
    test = draw < TEST_FRACTION
    for c in torch.unique(targets[test]).tolist():
        rows = torch.nonzero(targets == c).flatten()
        if bool(test[rows].all()):
            test[rows[draw[rows].argmax()]] = False
    return test


def _belongs(source: Source, names: Sequence[str | int]) -> Tensor:
    if source.targets is None:
        raise UnderstudyError(f"{source.name} has no labels, so its classes cannot be selected or omitted; label it")
    indices = torch.tensor([_index(source, name) for name in names], dtype=torch.int64)
    return torch.isin(source.targets, indices.to(source.targets.device))


def _index(source: Source, name: str | int) -> int:
    if isinstance(name, str) and name in source.classes:
        return source.classes.index(name)
    if str(name).isdecimal() and int(name) < len(source.classes):
        return int(name)
    raise UnderstudyError(f"{source.name} has no class {name!r}{nearest(str(name), source.classes)}")


def _ranks(ids: Tensor, targets: Tensor | None, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Rank of each sample within its class by the hash of its id, and its class; both (N,) int64.

    Samples without a label are a class of their own, beyond the others.
    """
    hashes = mix(name_key(purpose), seed, ids)
    classes = torch.zeros_like(ids) if targets is None else torch.where(targets < 0, targets.max() + 1, targets)
    order = torch.argsort(hashes, stable=True)
    order = order[torch.argsort(classes[order], stable=True)]
    counts = torch.bincount(classes)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts[classes[order]]
    return rank, classes
