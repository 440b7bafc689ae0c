"""Columns and labels, shared by all readers."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from understudy.data.formats.index import SplitName
from understudy.data.formats.records import escape_name
from understudy.errors import UnderstudyError

PATH_COLUMNS = ("path", "image", "file", "file_name", "filename")
LABEL_COLUMNS = ("label", "class", "target", "labels", "fine_label")
IMAGE_COLUMNS = ("image", "img")
_MAX_CLASSES = 2**20  # that class indices may count to; more than the largest sets have
_MAX_LABEL = 2**31 - 1


def find_column(name: str, columns: Iterable[str], candidates: Sequence[str]) -> str:
    """The first of the candidate columns that a table has, ignoring case."""
    columns = [column for column in columns if column]
    by_lower = {column.strip().lower(): column for column in columns}
    counts = Counter(column.strip().lower() for column in columns)
    for candidate in candidates:
        if counts[candidate] > 1:
            raise UnderstudyError(f"{name} has {counts[candidate]} columns {candidate!r}; rename all but one")
        if candidate in by_lower:
            return by_lower[candidate]
    others = f" (or {', '.join(candidates[1:])})" if candidates[1:] else ""
    raise UnderstudyError(
        f"{name} has columns {_listed(by_lower) or '(none)'} but not {candidates[0]!r}{others}; rename or add one"
    )


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Raise UnderstudyError for a labeled dataset with a single class."""
    if len(classes) == 1:
        raise UnderstudyError(f"{name} has only one class, {classes[0]!r}; a classifier needs at least two")


def check_same_classes(name: str, extra: set[str]) -> None:
    """Raise UnderstudyError if other splits have classes that the training split lacks."""
    if extra:
        raise UnderstudyError(
            f"{name} has classes that its train split lacks: {_listed(sorted(extra))}; add them to it or remove them"
        )


def _listed(names: Collection[str]) -> str:
    """The first ten names."""
    more = ["..."] if len(names) > 10 else []
    return ", ".join([*map(escape_name, islice(names, 10)), *more])


def check_single_labels(name: str, labels: Iterable[str]) -> None:
    """Raise UnderstudyError if a label lists other labels, as "cat dog" or "cat|dog" does beside "cat" and "dog"."""
    classes = set(labels)
    for label in sorted(classes):
        parts = re.findall(r"[^\s,;|]+", label)
        if len(parts) > 1 and classes.issuperset(parts):
            raise UnderstudyError(
                f"{name} gives a sample several classes, {escape_name(label)!r}, and multi-label data is not supported"
                f"; keep one class per sample, or write {escape_name('_'.join(parts))!r} if it is a class of its own"
            )


def encode_labels(
    name: str, classes: tuple[str, ...] | None, labels: Mapping[SplitName, Sequence[int | str]]
) -> tuple[tuple[str, ...], dict[SplitName, Tensor]]:
    """Class names and (N,) int64 targets from the labels of each split, which are strings, or integers.

    Integers are indices into `classes`. Without these, the classes are the integers, or the strings sorted as in
    scikit-learn, that occur in the training split.

    >>> encode_labels("toy", None, {"train": ["dog", "cat", "dog"]})
    (('cat', 'dog'), {'train': tensor([1, 0, 1])})
    >>> encode_labels("toy", None, {"train": [1, 5, 5]})
    (('1', '5'), {'train': tensor([0, 1, 1])})
    """
    kinds = {_kind(f"{name} has", split, i, x) for split, values in labels.items() for i, x in enumerate(values)}
    if len(kinds) > 1:
        raise UnderstudyError(f"{name} has class indices and class names as labels; use one or the other")
    if int in kinds and classes is not None:
        return check_targets(name, {split: torch.tensor(values) for split, values in labels.items()}, classes)
    names = sorted(set(labels["train"]))
    check_same_classes(name, {str(c) for values in labels.values() for c in set(values).difference(names)})
    if str in kinds:
        check_single_labels(name, map(str, names))
    check_classes(name, list(map(str, names)))
    index = {c: i for i, c in enumerate(names)}
    return tuple(map(str, names)), {split: torch.tensor([index[c] for c in y]) for split, y in labels.items()}


def _kind(who: str, split: SplitName, i: int, label: object) -> type:
    """`int` or `str`; raises UnderstudyError for what is not a label."""
    where = f"at sample {i:,} of its {split} split"
    if isinstance(label, str):
        if not label.strip():
            raise UnderstudyError(f"{who} no label {where}; label every image")
        return str
    shown = reprlib.repr(label)
    if isinstance(label, list | tuple | set | dict):
        raise UnderstudyError(
            f"{who} several labels, {shown}, {where}, and multi-label data is not supported; keep one class per sample"
        )
    if not isinstance(label, int):
        raise UnderstudyError(
            f"{who} the label {shown} {where}; write class indices as integers, or class names as text"
        )
    if not 0 <= label <= _MAX_LABEL:
        raise UnderstudyError(
            f"{who} label {label} {where}, which is not a class index; number the classes from 0, or write their names "
            "as text"
        )
    return int


def check_targets(
    name: str, targets: Mapping[SplitName, Tensor], classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[SplitName, Tensor]]:
    """Check (N,) integer labels against the class names, by default "0" to the highest label in train."""
    for y in targets.values():
        if y.dtype.is_floating_point or y.dtype.is_complex or y.ndim != 1:
            raise UnderstudyError(
                f"the labels of {name} are {str(y.dtype).removeprefix('torch.')} of shape {tuple(y.shape)}, expected "
                "one integer per sample; convert them, with argmax(1) if they are one-hot"
            )
    targets = {split: y.to(torch.int64) for split, y in targets.items()}
    n = len(classes) if classes else min(int(targets["train"].max()) + 1, _MAX_CLASSES)
    for split, y in targets.items():
        invalid = ((y < 0) | (y >= n)).nonzero().flatten()
        if len(invalid):
            bound = f"for its {n} classes" if classes or n < _MAX_CLASSES else "which is the most that is supported"
            raise UnderstudyError(
                f"{name} has label {int(y[invalid[0]])} at sample {int(invalid[0])} of its {split} split, outside 0 to "
                f"{n - 1} {bound}; number the classes from 0"
            )
    names = classes or tuple(map(str, range(n)))
    check_classes(name, names)
    return names, targets
