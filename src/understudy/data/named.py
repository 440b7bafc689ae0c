"""The data sets that go by a name: scikit-learn's digits, and torchvision's classification sets."""

from __future__ import annotations

import gzip
import os
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from understudy.data.arrays import array_source, listed_labels, open_images
from understudy.data.gather import Part, as_splits
from understudy.data.select import stratified_split
from understudy.data.source import Splits
from understudy.errors import UnderstudyError, nearest

_SPLIT: Mapping[Part, Mapping[str, object]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE = {**_SPLIT, "validation": {"split": "val"}}
_FLAG: Mapping[Part, Mapping[str, object]] = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: Mapping[Part, Mapping[str, object]] = {"train": {}}


@dataclass(frozen=True)
class NamedSet:
    """One row of the table of named sets.

    Attributes:
        about: what it shows, in a few words.
        classes: the number of classes, 0 where it is unlabelled.
        kind: the class in `torchvision.datasets`; empty for scikit-learn's digits.
        folder: the file or folder that torchvision looks for below the root.
        parts: part -> the keyword arguments that make it; one part alone is split 80 to 20.
        names: class names where torchvision has none.
        stem: how the files of the MNIST family begin.
    """

    about: str
    classes: int
    kind: str = ""
    folder: str = ""
    parts: Mapping[Part, Mapping[str, object]] = field(default_factory=lambda: _SPLIT)
    names: tuple[str, ...] = ()
    stem: str = ""


_DIGITS = tuple(string.digits)
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_BALANCED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")

NAMED: Mapping[str, NamedSet] = {
    "digits": NamedSet("handwritten digits, 8x8, inside scikit-learn", 10),
    "mnist": NamedSet(
        "handwritten digits, 28x28", 10, "MNIST", "MNIST/raw", _FLAG, _DIGITS
    ),
    "fashion-mnist": NamedSet(
        "clothes, 28x28", 10, "FashionMNIST", "FashionMNIST/raw", _FLAG,
        _CLOTHES,
    ),
    "kmnist": NamedSet(
        "cursive Japanese characters, 28x28", 10, "KMNIST", "KMNIST/raw", _FLAG,
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "emnist": NamedSet(
        "handwritten digits and letters, balanced, 28x28", 47, "EMNIST", "EMNIST/raw",
        {part: {**flag, "split": "balanced"} for part, flag in _FLAG.items()}, _BALANCED, "emnist-balanced-",
    ),
    "emnist-letters": NamedSet(
        "handwritten letters, 28x28", 26, "EMNIST", "EMNIST/raw",
        {part: {**flag, "split": "letters"} for part, flag in _FLAG.items()},
        tuple(string.ascii_lowercase), "emnist-letters-",
    ),
    "usps": NamedSet("digits from envelopes, 16x16", 10, "USPS", "usps.bz2", _FLAG, _DIGITS),
    "semeion": NamedSet(
        "handwritten digits, 16x16", 10, "SEMEION", "semeion.data", _WHOLE, _DIGITS
    ),
    "cifar10": NamedSet("objects, 32x32", 10, "CIFAR10", "cifar-10-batches-py", _FLAG),
    "cifar100": NamedSet("objects, 32x32", 100, "CIFAR100", "cifar-100-python", _FLAG),
    "svhn": NamedSet(
        "house numbers in the street, 32x32", 10, "SVHN", "train_32x32.mat", names=_DIGITS
    ),
    "stl10": NamedSet("objects, 96x96", 10, "STL10", "stl10_binary"),
    "stl10-unlabelled": NamedSet(
        "objects, 96x96, 100,000 without labels", 0, "STL10", "stl10_binary",
        {"train": {"split": "unlabeled"}},
    ),
    "flowers102": NamedSet("flowers", 102, "Flowers102", "flowers-102", _THREE),
    "pets": NamedSet(
        "breeds of cats and dogs", 37, "OxfordIIITPet", "oxford-iiit-pet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
    ),
    "food101": NamedSet("dishes", 101, "Food101", "food-101"),
    "dtd": NamedSet("textures", 47, "DTD", "dtd", _THREE),
    "eurosat": NamedSet("land use from a satellite, 64x64", 10, "EuroSAT", "eurosat", _WHOLE),
    "gtsrb": NamedSet("German traffic signs", 43, "GTSRB", "gtsrb"),
    "aircraft": NamedSet(
        "variants of aircraft", 100, "FGVCAircraft", "fgvc-aircraft-2013b", _THREE
    ),
    "cars": NamedSet("makes of cars", 196, "StanfordCars", "stanford_cars"),
    "caltech101": NamedSet("objects", 101, "Caltech101", "caltech101", _WHOLE),
    "country211": NamedSet(
        "the country of a photograph", 211, "Country211", "country211",
        {**_SPLIT, "validation": {"split": "valid"}},
    ),
    "sun397": NamedSet("scenes", 397, "SUN397", "SUN397", _WHOLE),
    "pcam": NamedSet(
        "lymph nodes with and without tumour, 96x96", 2, "PCAM", "pcam", _THREE, ("normal", "tumour")
    ),
    "rendered-sst2": NamedSet(
        "sentiment of sentences drawn as images", 2, "RenderedSST2", "rendered-sst2", _THREE
    ),
    "places365": NamedSet(
        "scenes, 256x256", 365, "Places365", "data_256_standard",
        {"train": {"split": "train-standard", "small": True}, "test": {"split": "val", "small": True}},
    ),
    "imagenette": NamedSet(
        "ten easy classes of ImageNet, 160 pixels", 10, "Imagenette", "imagenette2-160",
        {"train": {"split": "train", "size": "160px"}, "test": {"split": "val", "size": "160px"}},
    ),
}  # fmt: skip


def open_named(name: str, *, root: Path | None, download: bool, size: int | None, seed: int) -> Splits:
    """Open a set of the table; ids are the positions in the part.

    It is looked for below `root`, else $UNDERSTUDY_DATA, else ./data, there and in a folder of its own name,
    and downloaded only if `download`.
    """
    try:
        named = NAMED[name]
    except KeyError:
        raise UnderstudyError(f"no data set is called {name!r}{nearest(name, NAMED)}") from None
    if name == "digits":
        return _digits(seed)
    home = root or Path(os.environ.get("UNDERSTUDY_DATA") or "data")
    below = next((at for at in (home, home / name) if (at / named.folder).exists()), None)
    if below is None and not download:
        raise UnderstudyError(
            f"{name} is not in {home}, where {named.folder} was looked for, also in {home / name}; pass "
            "--download to fetch it, or --data-root to name the folder that has it"
        )
    below = below or home
    if named.folder.endswith("/raw"):
        return _mnist_like(name, named, below, download)
    return _torchvision(name, named, below, download, size, seed)


def read_idx(path: Path) -> np.ndarray:
    """An array in MNIST's idx format, from `path` or, packed, from `path`.gz; unsigned bytes only."""
    packed = path.with_name(path.name + ".gz")
    try:
        data = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    except (EOFError, OSError) as fault:
        raise UnderstudyError(f"{path} cannot be read ({fault}); fetch it again with --download") from fault
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = tuple(np.frombuffer(data, ">i4", rank, 4).tolist()) if len(data) >= 4 + 4 * rank else ()
    if not rank or len(data) != 4 + 4 * rank + np.prod(shape, dtype=np.int64):
        raise UnderstudyError(f"{path} is not a whole idx file of bytes; fetch it again with --download")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _divided(whole: Splits, seed: int) -> Splits:
    kept, held = stratified_split(whole.train, 0.2, seed)
    return Splits(whole.train.subset(kept), whole.train.subset(held))


def _digits(seed: int) -> Splits:
    from sklearn.datasets import load_digits

    bunch = cast(Any, load_digits())
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return _divided(Splits(array_source("digits", pixels, bunch.target, _DIGITS)), seed)


def _mnist_like(name: str, named: NamedSet, below: Path, download: bool) -> Splits:
    raw = below / named.folder
    files = {part: _idx_files(raw, named, part) for part in ("train", "test")}
    if download and not all(_present(file) for pair in files.values() for file in pair):
        for options in named.parts.values():
            _make(name, named, below, options, download=True)
    sources = {}
    for part, pair in files.items():
        for file in pair:
            if not _present(file):
                raise UnderstudyError(
                    f"{name} lacks {file.name} (or {file.name}.gz) in {raw}; pass --download to fetch it"
                )
        images, labels = map(read_idx, pair)
        if named.kind == "EMNIST":  # stored lying on its side
            images = images.transpose(0, 2, 1)
        labels = labels.astype(np.int64) - (named.stem == "emnist-letters-")  # whose labels begin at 1
        sources[part] = array_source(name, images, labels, named.names, part=part)
    return as_splits(sources)


def _idx_files(raw: Path, named: NamedSet, part: Part) -> tuple[Path, Path]:
    prefix = named.stem + ("t10k" if part == "test" and not named.stem else part)
    return raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"


def _present(file: Path) -> bool:
    return file.exists() or file.with_name(file.name + ".gz").exists()


def _make(name: str, named: NamedSet, below: Path, options: Mapping[str, object], *, download: bool) -> Any:
    from torchvision import datasets

    make: Callable[..., Any] = getattr(datasets, named.kind)
    # Some of torchvision's sets cannot be downloaded, and do not take the word.
    extra = {} if named.kind == "StanfordCars" else {"download": download}
    try:
        return make(below, **options, **extra)
    except (RuntimeError, OSError, ImportError, ValueError) as fault:
        why = str(fault).strip().splitlines()[0].rstrip(".") if str(fault).strip() else type(fault).__name__
        mend = "mend that and try again" if download else "pass --download to fetch what is missing"
        raise UnderstudyError(f"{name} cannot be opened in {below} ({why}); {mend}") from fault


def _torchvision(name: str, named: NamedSet, below: Path, download: bool, size: int | None, seed: int) -> Splits:
    sets = {part: _make(name, named, below, options, download=download) for part, options in named.parts.items()}
    first = sets["train"]
    classes = named.names or getattr(first, "classes", None) or getattr(first, "categories", None)
    if not classes:
        classes = tuple(map(str, range(named.classes)))
    if isinstance(getattr(first, "data", None), np.ndarray):
        splits = as_splits(
            {
                part: array_source(name, made.data, listed_labels(made) if named.classes else None, classes, part=part)
                for part, made in sets.items()
            }
        )
    else:
        images = {part: (made, torch.as_tensor(_labels(made))) for part, made in sets.items()}
        splits = open_images(name, images, classes, size)
    return _divided(splits, seed) if named.parts is _WHOLE else splits


def _labels(dataset: Any) -> Tensor | Any:
    """(N,) integers, without decoding an image."""
    listed = listed_labels(dataset)
    if listed is not None:
        return listed
    import h5py  # pyright: ignore[reportMissingImports]  # PCAM, the one left, cannot be read without it

    with h5py.File(dataset._base_folder / dataset._FILES[dataset._split]["targets"][0]) as file:
        labels: Any = file["y"]
        return labels[:, 0, 0, 0].astype(np.int64)
