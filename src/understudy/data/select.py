"""Which rows of a source to use: by class, by a fraction, or for a validation part.

All are pure functions of the source's ids and targets: the same samples come out wherever and however often
they are asked for, and row numbers always rise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.data.source import Source
from understudy.errors import UnderstudyError, nearest
from understudy.randomness import mix, name_key


def only_classes(source: Source, names: Sequence[str | int]) -> Tensor:
    """Row numbers (int64) of these classes' samples; a class is its name or its index."""
    return torch.nonzero(_belongs(source, names)).flatten()


def omit_classes(source: Source, names: Sequence[str | int]) -> Tensor:
    """Row numbers (int64) of all samples but these classes'; a class is its name or its index."""
    return torch.nonzero(~_belongs(source, names)).flatten()


def fraction(source: Source, f: float, seed: int) -> Tensor:
    """Row numbers (int64) of a share `f` in (0, 1] of each class, at least one sample of every class.

    A smaller fraction is part of every larger one with the same seed.
    """
    if not 0 < f <= 1:
        raise UnderstudyError(f"a fraction of {source.name} must be above 0 and at most 1, not {f}")
    rank, counts = _ranks(source, seed, "fraction")
    return torch.nonzero(rank < (counts * f).round().clamp(min=1)).flatten()


def shots(source: Source, count: int, seed: int) -> Tensor:
    """Row numbers (int64) of `count` samples of each class; fewer are part of more with the same seed.

    Raises:
        UnderstudyError: a class has fewer, or the source no labels.
    """
    if source.targets is None:
        raise UnderstudyError(f"{source.name} has no labels to draw {count} samples of each class by")
    counts = source.targets.bincount(minlength=len(source.classes))
    for name, held in zip(source.classes, counts.tolist(), strict=True):
        if held < count:
            raise UnderstudyError(
                f"{source.name} has {held} training samples of class {name!r}, fewer than {count} shots; ask for fewer"
            )
    rank, _ = _ranks(source, seed, "shots")
    return torch.nonzero(rank < count).flatten()


def in_proportion(source: Source, count: int, seed: int, *, every_class: bool = True) -> Tensor:
    """Row numbers (int64) of exactly `count` samples, as many of each class as its share of them comes to.

    Args:
        every_class: whether each class has at least one.

    Raises:
        UnderstudyError: there are fewer samples, or more classes that each need one.
    """
    rank, _ = _ranks(source, seed, "in proportion")
    targets = torch.zeros_like(source.ids) if source.targets is None else source.targets
    held = targets.bincount()
    needed = int((held > 0).sum()) if every_class else 1
    if not needed <= count <= len(source):
        raise UnderstudyError(
            f"{count:,} samples were asked of {source.name}, which has {len(source):,} in {needed:,} classes; ask for "
            "no more than there are, and one of each class at least"
        )
    share = held * (count / len(source))
    taken = (held > 0).long() if every_class else torch.zeros_like(held)
    while int(taken.sum()) < count:  # the class that is furthest below its share is given one more
        taken[torch.where(taken < held, share - taken, -torch.inf).argmax()] += 1
    return torch.nonzero(rank < taken[targets]).flatten()


def stratified_split(source: Source, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers (int64) (kept, held out): a share in (0, 1) of each class is held out, by its ids' hashes.

    Of a class with two samples or more at least one goes to either side; a class of one is kept.
    """
    if not 0 < share < 1:
        raise UnderstudyError(f"the share of {source.name} to hold out must be between 0 and 1, not {share}")
    rank, counts = _ranks(source, seed, "split")
    held = rank < torch.minimum((counts * share).round().clamp(min=1), counts - 1)
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def _belongs(source: Source, names: Sequence[str | int]) -> Tensor:
    if source.targets is None:
        raise UnderstudyError(f"{source.name} has no labels, so no classes of it can be chosen or omitted")
    indices = torch.tensor([_index(source, name) for name in names], dtype=torch.int64)
    return torch.isin(source.targets, indices.to(source.targets.device))


def _index(source: Source, name: str | int) -> int:
    if isinstance(name, str) and name in source.classes:
        return source.classes.index(name)
    if str(name).isdecimal() and int(name) < len(source.classes):
        return int(name)
    raise UnderstudyError(f"{source.name} has no class {name!r}{nearest(str(name), source.classes)}")


def _ranks(source: Source, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Each sample's place in its class by its id's hash, and its class's number of samples, both (N,)."""
    hashes = mix(name_key(purpose), seed, source.ids)
    targets = torch.zeros_like(source.ids) if source.targets is None else source.targets
    order = torch.argsort(hashes, stable=True)
    order = order[torch.argsort(targets[order], stable=True)]
    counts = torch.bincount(targets)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts[targets[order]]
    return rank, counts[targets]
