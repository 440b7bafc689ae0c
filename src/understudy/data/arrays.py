"""Data that a program has in hand: a pair of arrays, or a torch data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from understudy.data.gather import Listed, Part, Records, check_classes, gather, position_ids
from understudy.data.records import ItemRecord
from understudy.data.source import ArraySource, Splits
from understudy.data.table import label_targets
from understudy.errors import UnderstudyError


def array_source(
    name: str,
    inputs: object,
    targets: object = None,
    classes: Sequence[object] | None = None,
    *,
    part: Part = "train",
    ids: Tensor | None = None,
) -> ArraySource:
    """A source of whole arrays.

    Args:
        name: what to call it in messages.
        inputs: a tensor or array (N, D) of vectors, (N, H, W) or (N, H, W, 1 or 3) or (N, C, H, W) of images.
            Floats become float32 and must be finite, 8-bit images stay uint8, other integers become uint8
            where they are images and float32 where they are vectors.
        targets: (N,) integers from 0, or None where unlabelled.
        classes: names; "0", "1", ... where not given.
        part: sets the ids apart that the samples get by their position, where none are given.
        ids: (N,) int64, unique.
    """
    x = _canonical(name, _tensor(inputs))
    if len(x) == 0:
        raise UnderstudyError(f"{name} holds no samples; give at least one of each class")
    names: tuple[str, ...] = ()
    y: Tensor | None = None
    if targets is not None:
        y = _tensor(targets)
        if len(y) != len(x):
            raise UnderstudyError(f"{name} has {len(x):,} inputs but {len(y):,} labels; give one for each")
        names, checked = label_targets(name, {"train": y}, _class_names(classes))
        y = checked["train"]
        check_classes(name, names)
    where = position_ids(len(x), part) if ids is None else ids
    return ArraySource(name, names, where, y, tuple(x.shape[1:]), inputs=x)


def open_modalities(data: Mapping[str, object]) -> Splits:
    """Paired arrays by name, as in `{"audio": (N, F, T), "image": (N, C, H, W), "targets": (N,)}`.

    Row i of each belongs to sample i. `targets` and `classes` may be left out; "rgb" is another word for "image".
    """
    arrays = {"image" if name == "rgb" else name: x for name, x in data.items() if name not in ("targets", "classes")}
    if not arrays:
        raise UnderstudyError("the dict of arrays names no modality; give some, as in {'image': x, 'depth': d}")
    first, *others = (
        replace(array_source(f"the array {name!r}", x), modality=name, name="the arrays") for name, x in arrays.items()
    )
    for other in others:
        if len(other) != len(first):
            raise UnderstudyError(
                f"the arrays hold {len(first):,} samples of {first.modality} and {len(other):,} of {other.modality}; "
                "give as many of each, row i of one belonging to row i of the other"
            )
    labelled = array_source(
        "the arrays", next(iter(arrays.values())), data.get("targets"), _listed(data.get("classes"))
    )
    return Splits(replace(labelled, modality=first.modality, pairs={other.modality: other for other in others}))


def _listed(classes: object) -> Sequence[object] | None:
    return None if classes is None else list(cast("Sequence[object]", classes))


def open_dataset(dataset: Dataset[Any], *, size: int | None, name: str = "") -> Splits:
    """A map-style torch data set of (x, y) or x; ids are the positions.

    Tensors and arrays become a source of arrays. Images become one too where they are small and of one size,
    and otherwise are taken from `dataset[i]` as they are used.
    """
    name = name or f"the {type(dataset).__name__}"
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise UnderstudyError(
            f"{name} is an iterable data set, whose samples have no stable numbers; "
            "give a map-style one, with __len__ and __getitem__"
        )
    classes = cast("Sequence[object] | None", getattr(dataset, "classes", None))
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) <= 2:
        return Splits(array_source(name, *dataset.tensors, classes=classes))
    n = len(cast(Sized, dataset))
    if n == 0:
        raise UnderstudyError(f"{name} holds no samples; give at least one of each class")
    first = dataset[0]
    paired = isinstance(first, tuple | list) and len(first) == 2
    x = first[0] if paired else first
    if isinstance(x, Image.Image):
        labels = None
        if paired:
            listed = listed_labels(dataset)
            labels = _tensor([_label(dataset[i][1]) for i in range(n)] if listed is None else listed)
        return open_images(name, {"train": (dataset, labels)}, classes, size)
    if not isinstance(x, Tensor | np.ndarray):
        raise UnderstudyError(
            f"{name} gives items of {type(x).__name__}, where (input, label) or input was expected, "
            "input being an image, a tensor or an array; wrap it to return that"
        )
    items = [dataset[i] for i in range(n)]
    inputs = [_tensor(item[0] if paired else item) for item in items]
    for i, one in enumerate(inputs):
        if one.shape != inputs[0].shape:
            raise UnderstudyError(
                f"item {i} of {name} has shape {tuple(one.shape)}, the first {tuple(inputs[0].shape)}; "
                "bring all to one shape, or return images"
            )
    targets = _tensor([_label(item[1]) for item in items]) if paired else None
    return Splits(array_source(name, torch.stack(inputs), targets, classes))


def open_images(
    name: str,
    parts: Mapping[Part, tuple[Any, Tensor | None]],
    classes: Sequence[object] | None,
    size: int | None,
    *,
    key: int | str = 0,
) -> Splits:
    """Map-style data sets of items whose entry `key` is an image, and their labels, (N,) integers or None."""
    labels = {part: found for part, (_, found) in parts.items() if found is not None}
    names: tuple[str, ...] = ()
    if labels:
        names, labels = label_targets(name, labels, _class_names(classes))
        check_classes(name, names)
    records = {}
    for part, (dataset, _) in parts.items():
        inner = None if isinstance(dataset[0], Image.Image) else key
        items = [ItemRecord(dataset, i, inner) for i in range(len(dataset))]
        records[part] = Records(items, position_ids(len(items), part), labels.get(part))
    return gather(Listed(name, names, records, look_at_all=False), size)


def listed_labels(dataset: object) -> Sequence[int] | None:
    """The labels that torchvision's data sets hold under one name or another, or None."""
    for attribute in ("targets", "labels", "_labels", "y"):
        found = getattr(dataset, attribute, None)
        if found is not None and len(found) == len(cast(Sized, dataset)):
            return found
    samples = getattr(dataset, "_samples", None)
    return None if samples is None else [label for _, label in samples]


def _label(label: object) -> object:
    return label.item() if isinstance(label, Tensor | np.ndarray) and label.ndim == 0 else label


def _tensor(values: object) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError) as fault:
        raise UnderstudyError(
            f"a {type(values).__name__} of {np.asarray(values, dtype=object).dtype} cannot become a tensor; "
            "give numbers, all of one shape"
        ) from fault


def _class_names(classes: Sequence[object] | None) -> tuple[str, ...] | None:
    """As text; a class with several names (WordNet's synonyms) goes by the first."""
    if classes is None:
        return None
    return tuple(str(c[0] if isinstance(c, tuple | list) else c) for c in classes)


def _canonical(name: str, x: Tensor) -> Tensor:
    """(N, D) float32, or (N, C, H, W) uint8 or float32."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2)
    if x.ndim not in (2, 4) or x.dtype.is_complex:
        raise UnderstudyError(
            f"the inputs of {name} are {x.dtype} of shape {tuple(x.shape)}, where (samples, values) or "
            "(samples, channels, height, width) was expected; reshape them"
        )
    if x.dtype.is_floating_point:
        bad = (~torch.isfinite(x.flatten(1)).all(1)).nonzero().flatten()
        if len(bad):
            raise UnderstudyError(
                f"{len(bad):,} of the {len(x):,} samples of {name} hold NaN or infinity, "
                f"sample {int(bad[0])} first; mend or drop them"
            )
    elif x.ndim == 4 and x.dtype != torch.uint8:
        if bool((x < 0).any() | (x > 255).any()):
            raise UnderstudyError(
                f"the images of {name} are {x.dtype} beyond 0 to 255; give uint8, or floats in 0 to 1"
            )
        return x.to(torch.uint8).contiguous()
    return (x if x.dtype == torch.uint8 and x.ndim == 4 else x.float()).contiguous()
