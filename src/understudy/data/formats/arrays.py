"""In-memory data: arrays, tensors and map-style torch datasets."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from understudy.data.formats import decode
from understudy.data.formats.build import build_splits
from understudy.data.formats.index import DatasetIndex, SplitIndex, SplitName, position_ids
from understudy.data.formats.labels import check_targets
from understudy.data.formats.records import MISSING
from understudy.data.source import ArraySource, ImageHeader, Splits, Stamp, Unreadable, digest_of
from understudy.errors import UnderstudyError

_ITEM_BYTES = 4 * 2**20  # taken for the size of an item, as it is known only once it is computed


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """The image `dataset[index]`, or `dataset[index][key]` if items have several entries."""

    dataset: Any
    index: int
    key: int | str | None = None

    @property
    def name(self) -> str:
        return f"item {self.index}"

    @property
    def nbytes(self) -> int:
        return -1  # only its pixels are known

    def open(self) -> BinaryIO:
        return io.BytesIO(self.read().tobytes())

    def stamp(self) -> Stamp:
        return Stamp(_ITEM_BYTES, 0)

    def digest(self) -> int:
        try:
            return digest_of(self.read().tobytes())
        except Unreadable:
            return MISSING

    def header(self) -> ImageHeader:
        image = self.read()
        return ImageHeader(*image.size, gray=image.mode == "L")

    def read(self, least: int = 0) -> Image.Image:
        try:
            item = self.dataset[self.index]
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise Unreadable(decode.DAMAGED) from error
        image = item if self.key is None else item[self.key]
        if not isinstance(image, Image.Image):
            raise UnderstudyError(
                f"item {self.index} is a {type(image).__name__}, but the first is an image; return images for all items"
            )
        return decode.upright(image)


def array_source(
    name: str,
    inputs: object,
    targets: object = None,
    classes: Sequence[object] | None = None,
    *,
    split: SplitName = "train",
) -> ArraySource:
    """Create a source from arrays: vectors (N, D), or images (N, H, W), (N, H, W, 1 or 3) or (N, C, H, W).

    Floats become float32 and must be finite; integer images become uint8 and integer vectors float32. Targets are (N,)
    class indices. Classes are named "0", "1", ... by default. Ids are the positions in the split.

    >>> source = array_source("toy", np.zeros((4, 8, 8), np.uint8), [0, 1, 1, 0], ["cat", "dog"])
    >>> source.shape, source.classes, source.ids
    ((1, 8, 8), ('cat', 'dog'), tensor([0, 1, 2, 3]))
    """
    x = _canonical(name, _tensor(inputs))
    if len(x) == 0:
        raise UnderstudyError(f"{name} contains no samples; give at least one per class")
    y = None if targets is None else _tensor(targets)
    if y is not None and len(y) != len(x):
        raise UnderstudyError(f"{name} has {len(x):,} inputs but {len(y):,} labels; give one label per input")
    names, labels = _checked_labels(name, {} if y is None else {"train": y}, classes)
    return ArraySource(name, names, position_ids(len(x), split), labels.get("train"), tuple(x.shape[1:]), inputs=x)


def open_modalities(data: Mapping[str, object]) -> Splits:
    """Open paired arrays, e.g. `{"audio": (N, F, T), "image": (N, C, H, W), "targets": (N,)}`.

    Row i of each array belongs to sample i. "targets" and "classes" are optional; "rgb" is an alias of "image".
    """
    arrays = {"image" if name == "rgb" else name: x for name, x in data.items() if name not in ("targets", "classes")}
    if not arrays:
        raise UnderstudyError("the dict of arrays has no modality; give at least one, e.g. {'image': x, 'depth': d}")
    first, *others = (
        replace(array_source(f"the array {name!r}", x), modality=name, name="array data") for name, x in arrays.items()
    )
    for other in others:
        if len(other) != len(first):
            raise UnderstudyError(
                f"the arrays have {len(first):,} samples of {first.modality} but {len(other):,} of {other.modality}; "
                "give the same number, with row i of each belonging to sample i"
            )
    classes = cast("Sequence[object] | None", data.get("classes"))
    labeled = array_source("array data", next(iter(arrays.values())), data.get("targets"), classes)
    return Splits(replace(labeled, modality=first.modality, pairs={other.modality: other for other in others}))


def open_dataset(dataset: Dataset[Any], *, size: int | None, name: str = "") -> Splits:
    """Open a map-style torch dataset of (x, y) or x; ids are positions.

    Tensors and arrays are held in memory, as are small images of one size; other images are loaded on the fly.
    """
    name = name or f"the {type(dataset).__name__}"
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise UnderstudyError(
            f"{name} is an iterable dataset, whose samples have no stable indices; "
            "give a map-style one, with __len__ and __getitem__"
        )
    classes = cast("Sequence[object] | None", getattr(dataset, "classes", None))
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) <= 2:
        return Splits(array_source(name, *dataset.tensors, classes=classes))
    n = len(cast(Sized, dataset))
    if n == 0:
        raise UnderstudyError(f"{name} contains no samples; give at least one per class")
    first = dataset[0]
    paired = isinstance(first, tuple | list) and len(first) == 2
    x = first[0] if paired else first
    if isinstance(x, Image.Image):
        labels = None
        if paired:
            stored = stored_labels(dataset)
            labels = _tensor([_label(dataset[i][1]) for i in range(n)] if stored is None else stored)
        return open_images(name, {"train": (dataset, labels)}, classes, size)
    if not isinstance(x, Tensor | np.ndarray):
        raise UnderstudyError(
            f"the items of {name} are {type(x).__name__}, expected (input, label) or input, with images, tensors or "
            "arrays as inputs; wrap the dataset to return these"
        )
    items = [dataset[i] for i in range(n)]
    inputs = [_tensor(item[0] if paired else item) for item in items]
    for i, item in enumerate(inputs):
        if item.shape != inputs[0].shape:
            raise UnderstudyError(
                f"item {i} of {name} has shape {tuple(item.shape)}, but the first has {tuple(inputs[0].shape)}; "
                "give all the same shape, or return images"
            )
    targets = _tensor([_label(item[1]) for item in items]) if paired else None
    return Splits(array_source(name, torch.stack(inputs), targets, classes))


def open_images(
    name: str,
    parts: Mapping[SplitName, tuple[Any, Tensor | None]],
    classes: Sequence[object] | None,
    size: int | None,
    *,
    key: int | str = 0,
) -> Splits:
    """Open map-style datasets with an image as entry `key` of each item, and labels (N,) or None, by split."""
    labels = {split: y for split, (_, y) in parts.items() if y is not None}
    names, labels = _checked_labels(name, labels, classes)
    splits: dict[SplitName, SplitIndex] = {}
    for split, (dataset, _) in parts.items():
        entry = None if isinstance(dataset[0], Image.Image) else key
        records = [ItemRecord(dataset, i, entry) for i in range(len(dataset))]
        splits[split] = SplitIndex(records, position_ids(len(records), split), labels.get(split))
    return build_splits(DatasetIndex(name, names, splits, scan=False), size)


def stored_labels(dataset: object) -> Sequence[int] | None:
    """The labels that torchvision datasets store under various names, or None."""
    for attribute in ("targets", "labels", "_labels", "y"):
        labels = getattr(dataset, attribute, None)
        if labels is not None and len(labels) == len(cast(Sized, dataset)):
            return labels
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
    except (TypeError, ValueError) as error:
        raise UnderstudyError(
            f"cannot convert a {type(values).__name__} of {np.asarray(values, dtype=object).dtype} to a tensor; "
            "give numbers, all of one shape"
        ) from error


def _checked_labels(
    name: str, labels: dict[SplitName, Tensor], classes: Sequence[object] | None
) -> tuple[tuple[str, ...], dict[SplitName, Tensor]]:
    """Class names and targets by split, both empty without labels."""
    if not labels:
        return (), {}
    # of several synonyms, as in WordNet, the first
    known = None if classes is None else tuple(str(c[0] if isinstance(c, tuple | list) else c) for c in classes)
    return check_targets(name, labels, known)


def _canonical(name: str, x: Tensor) -> Tensor:
    """(N, D) float32, or (N, C, H, W) uint8 or float32."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2)
    if x.ndim not in (2, 4) or x.dtype.is_complex:
        raise UnderstudyError(
            f"the inputs of {name} are {x.dtype} of shape {tuple(x.shape)}, expected (N, D) or (N, C, H, W); reshape "
            "them"
        )
    if x.dtype.is_floating_point:
        invalid = (~torch.isfinite(x.flatten(1)).all(1)).nonzero().flatten()
        if len(invalid):
            raise UnderstudyError(
                f"{len(invalid):,} of the {len(x):,} samples of {name} contain NaN or infinity, "
                f"e.g. sample {int(invalid[0])}; fix or remove them"
            )
    elif x.ndim == 4 and x.dtype != torch.uint8:
        if bool((x < 0).any() | (x > 255).any()):
            raise UnderstudyError(
                f"the images of {name} are {x.dtype} with values outside 0 to 255; give uint8, or floats in 0 to 1"
            )
        return x.to(torch.uint8).contiguous()
    return (x if x.dtype == torch.uint8 and x.ndim == 4 else x.float()).contiguous()
