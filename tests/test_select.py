"""Row selection by class, by fraction and for held-out splits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.data import Source, fraction, omit_classes, only_classes, stratified_split
from understudy.errors import UnderstudyError

COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**63 - 1)


def source(counts: list[int], *, labeled: bool = True) -> Source:
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(len(targets)))]
    names = tuple(f"class{i}" for i in range(len(counts)))
    ids = torch.arange(len(targets)) * 7919
    return Source("the set", names if labeled else (), ids, targets if labeled else None, (1,))


def per_class(s: Source, rows: torch.Tensor) -> list[int]:
    assert s.targets is not None
    return torch.bincount(s.targets[rows], minlength=len(s.classes)).tolist()


def ascending(rows: torch.Tensor) -> bool:
    return rows.dtype == torch.int64 and bool((rows.diff() > 0).all())


@given(COUNTS, st.floats(0.001, 1), SEEDS)
def test_a_fraction_is_stratified(counts: list[int], f: float, seed: int) -> None:
    s = source(counts)
    rows = fraction(s, f, seed)
    assert ascending(rows)
    for got, n in zip(per_class(s, rows), counts, strict=True):
        assert got >= 1
        assert abs(got - f * n) <= 1
    assert torch.equal(rows, fraction(s, f, seed))


@given(COUNTS, st.floats(0.001, 1), st.floats(0.001, 1), SEEDS)
def test_fractions_are_nested(counts: list[int], f: float, g: float, seed: int) -> None:
    s = source(counts)
    small, large = (set(fraction(s, x, seed).tolist()) for x in sorted((f, g)))
    assert small <= large
    assert fraction(s, 1, seed).tolist() == list(range(len(s)))


@given(COUNTS, st.floats(0.01, 0.99), SEEDS)
def test_a_split_partitions(counts: list[int], share: float, seed: int) -> None:
    s = source(counts)
    kept, held = stratified_split(s, share, seed)
    assert ascending(kept)
    assert ascending(held)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(s)))
    for here, there, n in zip(per_class(s, kept), per_class(s, held), counts, strict=True):
        assert here >= 1
        assert there >= (n > 1)
        assert abs(there - share * n) <= 1


@given(COUNTS, st.floats(0.01, 0.99), SEEDS)
def test_selection_does_not_depend_on_order(counts: list[int], share: float, seed: int) -> None:
    s = source(counts)
    order = torch.argsort(s.ids * 2654435761 % 65537)
    mixed = s.subset(order)
    for choose in (lambda x: fraction(x, share, seed), lambda x: stratified_split(x, share, seed)[1]):
        assert set(s.ids[choose(s)].tolist()) == set(mixed.ids[choose(mixed)].tolist())


@given(COUNTS, st.data())
def test_only_and_omit_are_complements(counts: list[int], data: st.DataObject) -> None:
    s = source(counts)
    names = data.draw(st.lists(st.sampled_from([*s.classes, *range(len(counts))])))
    only, omit = only_classes(s, names), omit_classes(s, names)
    assert ascending(only)
    assert sorted([*only.tolist(), *omit.tolist()]) == list(range(len(s)))
    chosen = {s.classes.index(n) if isinstance(n, str) else n for n in names}
    assert per_class(s, only) == [n if i in chosen else 0 for i, n in enumerate(counts)]


def test_seeds_and_purposes_are_independent() -> None:
    s = source([200, 200])
    assert not torch.equal(fraction(s, 0.5, 0), fraction(s, 0.5, 1))
    assert not torch.equal(fraction(s, 0.5, 0), stratified_split(s, 0.5, 0)[1])
    bare = source([200], labeled=False)
    assert len(fraction(bare, 0.25, 0)) == 50
    assert len(stratified_split(bare, 0.25, 0)[1]) == 50


def test_names_take_precedence_over_indices() -> None:
    s = Source("digits", ("1", "0"), torch.arange(2), torch.tensor([0, 1]), (1,))
    assert only_classes(s, ["0"]).tolist() == [1]
    assert only_classes(s, [0]).tolist() == [0]


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda s: only_classes(s, ["clas1"]), "no class 'clas1'; did you mean 'class1'"),
        (lambda s: omit_classes(s, [2]), "no class 2"),
        (lambda s: omit_classes(s, ["-1"]), "no class '-1'"),
        (lambda s: fraction(s, 0, 0), "above 0"),
        (lambda s: fraction(s, 1.5, 0), "at most 1"),
        (lambda s: stratified_split(s, 1, 0), "between 0 and 1"),
        (lambda s: s.subset(omit_classes(s, [0, 1])), "no samples of the set are left"),
        (lambda s: only_classes(source([2], labeled=False), ["class0"]), "no labels"),
    ],
)
def test_errors(choose, words: str) -> None:
    with pytest.raises(UnderstudyError, match=words):
        choose(source([3, 3]))
