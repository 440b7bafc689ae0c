"""What to know about the parts of a dataset before an accuracy is believed: samples in two parts, classes in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from understudy.data.source import Source
from understudy.randomness import name_key, uniform

MAX_SAMPLES = 200_000
"""Larger datasets are not searched for duplicates."""
MAX_BYTES = 4 * 2**30
"""Nor are those of which more than this would have to be read."""


def compare_parts(train: Source, held: Source, part: str) -> list[str]:
    """Sentences on what a part held out for scoring shares with the training part, and on classes that it lacks.

    Args:
        train, held: the parts; of labeled ones, with the same classes.
        part: what the second one is called, such as "test".

    >>> from understudy.data.formats.arrays import array_source
    >>> x = torch.arange(6).reshape(3, 2)
    >>> train, test = array_source("toy", x, [0, 1, 2]), array_source("toy", x[:2] + 2, [1, 0])
    >>> unscored, twins = compare_parts(train, test, "test")
    >>> unscored
    'The test part has no sample of class 2, which its accuracy leaves out; add some.'
    >>> twins.partition(";")[0]
    'The test part shares 2 of its 2 samples with the training part, e.g. sample 0 as sample 1'
    """
    found = []
    if train.targets is not None and held.targets is not None:
        trained, scored = (_counts(y, train.classes) > 0 for y in (train.targets, held.targets))
        if unscored := _classes(train, trained & ~scored):
            found.append(f"The {part} part has no sample of {unscored}, which its accuracy leaves out; add some.")
    pairs = shared(train, held)
    if pairs is None:
        found.append(
            f"The {part} part was not searched for samples of the training part, which would have meant too much "
            "reading."
        )
    elif pairs:
        row, twin = pairs[0]
        found.append(
            f"The {part} part shares {len(pairs):,} of its {len(held):,} samples with the training part, e.g. "
            f"{held.sample_name(row)} as {train.sample_name(twin)}; its accuracy counts what was seen in training, so "
            "remove the copies."
        )
    return found


def check_trained(train: Source) -> list[str]:
    """A sentence on the classes of which a training part has no sample, if there are any."""
    if train.targets is None:
        return []
    untrained = _classes(train, _counts(train.targets, train.classes) == 0)
    return [f"The training part has no sample of {untrained}; add some, or leave these out."] if untrained else []


def shared(train: Source, held: Source) -> list[tuple[int, int]] | None:
    """Rows of `held` that equal a row of `train` in every byte, each with that row; None if it takes too much to tell.

    Of files, only those of the same size are read.
    """
    if len(train) + len(held) > MAX_SAMPLES:
        return None
    one, two = train.sizes(), held.sizes()
    if one is None or two is None:
        return []
    sizes = one, two
    if any(bool((own < 0).any()) for own in sizes):
        return None
    rows = [torch.isin(own, other[other > 0]).nonzero().flatten() for own, other in (sizes, sizes[::-1])]
    if sum(int(own[chosen].sum()) for own, chosen in zip(sizes, rows, strict=True)) > MAX_BYTES:
        return None
    twins: dict[bytes, int] = {}
    for row, digest in _digests(train, rows[0].tolist()):
        twins.setdefault(digest, row)
    return [(row, twins[digest]) for row, digest in _digests(held, rows[1].tolist()) if digest in twins]


def _digests(source: Source, rows: Sequence[int]) -> list[tuple[int, bytes]]:
    """The rows that can be read, with their digests."""
    return [(row, digest) for row, digest in zip(rows, source.content_hashes(rows), strict=True) if digest]


def _counts(targets: Tensor, classes: Sequence[str]) -> Tensor:
    """Samples of each class, (C,)."""
    return targets[targets >= 0].bincount(minlength=len(classes))


def _classes(source: Source, missing: torch.Tensor) -> str:
    """The first of some classes, and how many there are; "" if there are none."""
    rows = missing.nonzero().flatten().tolist()
    names = ", ".join(source.classes[i] for i in rows[:5])
    if len(rows) == 1:
        return f"class {names}"
    return f"{len(rows):,} classes ({names}{', ...' if len(rows) > 5 else ''})" if rows else ""


def spread(source: Source, most: int) -> Source:
    """At most so many samples of a source, evenly spread over it; the same ones whenever it is asked.

    >>> spread(Source("some", (), torch.arange(10), None, (2,)), 3).ids.tolist()
    [0, 3, 6]
    """
    if len(source) <= most:
        return source
    return source.subset(torch.arange(most) * len(source) // most)


def held_apart(source: Source, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows, int64, that are kept and that are held out, so many, by a hash of their ids: labels are not read."""
    order = uniform(source.ids, seed ^ name_key("held out")).argsort()
    return order[count:].sort().values, order[:count].sort().values


def distinct(source: Source) -> Source:
    """A source without samples that equal an earlier one in every byte, which is noted; as it is if it cannot be told.

    >>> from understudy.data.formats.arrays import array_source
    >>> kept = distinct(array_source("toy", torch.tensor([[1, 2], [3, 4], [1, 2]]), [0, 1, 0]))
    >>> kept.ids.tolist(), kept.notes
    ([0, 1], ('1 exact copy of other samples of toy is left out',))
    """
    sizes = source.sizes() if len(source) <= MAX_SAMPLES else None
    if sizes is None or bool((sizes < 0).any()):
        return source
    _, place, counts = sizes.unique(return_inverse=True, return_counts=True)
    rows = ((counts[place] > 1) & (sizes > 0)).nonzero().flatten()
    if int(sizes[rows].sum()) > MAX_BYTES:
        return source
    seen, copies = set[bytes](), list[int]()
    for row, digest in _digests(source, rows.tolist()):
        copies += [row] if digest in seen else []
        seen.add(digest)
    if not copies:
        return source
    kept = torch.ones(len(source), dtype=torch.bool)
    kept[copies] = False
    said = "1 exact copy" if len(copies) == 1 else f"{len(copies):,} exact copies"
    note = f"{said} of other samples of {source.name} {'is' if len(copies) == 1 else 'are'} left out"
    return replace(source.subset(kept.nonzero().flatten()), notes=(*source.notes, note))
