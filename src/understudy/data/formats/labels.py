"""Columns and labels, shared by all readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from understudy.data.formats.index import SplitName
from understudy.data.formats.records import escape_name
from understudy.errors import UnderstudyError

PATH_COLUMNS = ("path", "image", "file", "file_name", "filename")
LABEL_COLUMNS = ("label", "class", "target", "labels", "fine_label")
IMAGE_COLUMNS = ("image", "img")


def find_column(name: str, columns: Iterable[str], candidates: Sequence[str]) -> str:
    """The first of the candidate columns that a table has, ignoring case."""
    by_lower = {column.strip().lower(): column for column in columns if column}
    for candidate in candidates:
        if candidate in by_lower:
            return by_lower[candidate]
    others = f" (or {', '.join(candidates[1:])})" if candidates[1:] else ""
    raise UnderstudyError(
        f"{name} has columns {', '.join(by_lower) or '(none)'} but not {candidates[0]!r}{others}; rename or add one"
    )


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Raise UnderstudyError for a labeled dataset with a single class."""
    if len(classes) == 1:
        raise UnderstudyError(f"{name} has only one class, {classes[0]!r}; a classifier needs at least two")


def check_same_classes(name: str, extra: set[str]) -> None:
    """Raise UnderstudyError if other splits have classes that the training split lacks."""
    if extra:
        names = ", ".join(map(escape_name, sorted(extra)))
        raise UnderstudyError(f"{name} has classes that its train split lacks: {names}; add them to it or remove them")


def encode_labels(
    name: str, classes: tuple[str, ...] | None, labels: Mapping[SplitName, Sequence[int | str]]
) -> tuple[tuple[str, ...], dict[SplitName, Tensor]]:
    """Class names and (N,) int64 targets from integer labels, or from strings, sorted as in scikit-learn.

    >>> encode_labels("toy", None, {"train": ["dog", "cat", "dog"]})
    (('cat', 'dog'), {'train': tensor([1, 0, 1])})
    """
    train = labels["train"]
    if train and isinstance(train[0], str):
        names = sorted(set(map(str, train)))
        check_same_classes(name, {str(c) for split in labels.values() for c in split} - set(names))
        index = {c: i for i, c in enumerate(names)}
        check_classes(name, names)
        targets = {split: torch.tensor([index[str(c)] for c in values]) for split, values in labels.items()}
        return tuple(names), targets
    return check_targets(name, {split: torch.tensor(values) for split, values in labels.items()}, classes)


def check_targets(
    name: str, targets: Mapping[SplitName, Tensor], classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[SplitName, Tensor]]:
    """Check (N,) integer labels against the class names, by default "0" to the highest label in train."""
    n = len(classes) if classes else int(targets["train"].max()) + 1
    for split, y in targets.items():
        if y.dtype.is_floating_point or y.dtype.is_complex or y.ndim != 1:
            raise UnderstudyError(
                f"the labels of {name} are {str(y.dtype).removeprefix('torch.')} of shape {tuple(y.shape)}, expected "
                "one integer per sample; convert them, with argmax(1) if they are one-hot"
            )
        invalid = ((y < 0) | (y >= n)).nonzero().flatten()
        if len(invalid):
            raise UnderstudyError(
                f"{name} has label {int(y[invalid[0]])} at sample {int(invalid[0])} of its {split} split, outside 0 to "
                f"{n - 1} for its {n} classes; number the classes from 0"
            )
    names = classes or tuple(map(str, range(n)))
    check_classes(name, names)
    return names, {split: y.to(torch.int64) for split, y in targets.items()}
