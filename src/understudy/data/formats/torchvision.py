"""Built-in datasets by name, through torchvision; `catalog` lists them."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data.formats.arrays import array_source, open_images, stored_labels
from understudy.data.formats.catalog import NAMED, TRAIN_ONLY, NamedSet
from understudy.data.formats.index import SplitName
from understudy.data.select import hold_out_test
from understudy.data.source import Source, Splits
from understudy.errors import UnderstudyError


def default_root() -> Path:
    """Where built-in datasets are unless a caller says otherwise: $UNDERSTUDY_DATA, or else ./data."""
    return Path(os.environ.get("UNDERSTUDY_DATA") or "data")


def open_named(name: str, *, root: Path | None, download: bool, size: int | None, seed: int) -> Splits:
    """Open a built-in dataset; ids are positions in the split.

    It is searched for in `root`, by default $UNDERSTUDY_DATA or else ./data, directly and in a subfolder of its name,
    and downloaded only with `download`.
    """
    if name == "digits":
        return _digits(seed)
    named = NAMED[name]
    home = root or default_root()
    found = next((folder for folder in (home, home / name) if (folder / named.folder).exists()), None)
    if found is None and not (download and named.downloadable):
        searched = f"{name} is not in {home}: neither {named.folder} nor {name}/{named.folder} exists there"
        if not named.downloadable:
            raise UnderstudyError(
                f"{searched}; it cannot be downloaded: put it there as torchvision's {named.kind} expects it, or pass "
                "--data-root"
            )
        raise UnderstudyError(f"{searched}; pass --download, or --data-root with the folder that contains it")
    folder = found or home
    if named.folder.endswith("/raw"):
        return _mnist_like(name, named, folder, download)
    return _torchvision(name, named, folder, download, size, seed)


def read_idx(path: Path) -> np.ndarray:
    """Read a uint8 array in MNIST's IDX format from `path` or `path`.gz."""
    compressed = path.with_name(path.name + ".gz")
    try:
        data = path.read_bytes() if path.exists() else gzip.decompress(compressed.read_bytes())
    except (EOFError, OSError) as error:
        raise UnderstudyError(f"{path} cannot be read ({error}); download it again with --download") from error
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = tuple(np.frombuffer(data, ">i4", rank, 4).tolist()) if len(data) >= 4 + 4 * rank else ()
    if not rank or len(data) != 4 + 4 * rank + np.prod(shape, dtype=np.int64):
        raise UnderstudyError(f"{path} is not a complete IDX file of uint8; download it again with --download")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _digits(seed: int) -> Splits:
    """scikit-learn's digits, read from its file: importing scikit-learn takes longer than training on them."""
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    file = Path(found.origin).with_name("datasets") / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")  # 64 pixels from 0 to 16, and the class
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return hold_out_test(array_source("digits", pixels, table[:, -1].astype(np.int64)), seed)


def _mnist_like(name: str, named: NamedSet, folder: Path, download: bool) -> Splits:
    raw = folder / named.folder
    files: dict[SplitName, list[Path]] = {}
    for split in ("train", "test"):
        prefix = named.prefix + ("t10k" if split == "test" and not named.prefix else split)
        files[split] = [raw / f"{prefix}-{part}" for part in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    if download and not all(_exists(file) for pair in files.values() for file in pair):
        for options in named.splits.values():
            _construct(name, named, folder, options, download=True)
    sources: dict[str, Source] = {}
    for split, pair in files.items():
        for file in pair:
            if not _exists(file):
                raise UnderstudyError(f"{name} lacks {file.name} (or {file.name}.gz) in {raw}; pass --download")
        images, labels = map(read_idx, pair)
        if named.kind == "EMNIST":  # stored transposed
            images = images.transpose(0, 2, 1)
        labels = labels.astype(np.int64) - named.first_label
        sources[split] = array_source(name, images, labels, named.names, split=split)
    return Splits.from_dict(sources)


def _exists(file: Path) -> bool:
    return file.exists() or file.with_name(file.name + ".gz").exists()


def _construct(name: str, named: NamedSet, folder: Path, options: Mapping[str, object], *, download: bool) -> Any:
    from torchvision import datasets

    constructor: Callable[..., Any] = getattr(datasets, named.kind)
    extra = {"download": download} if named.downloadable else {}  # not all have this argument
    try:
        return constructor(folder, **options, **extra)
    except (RuntimeError, OSError, ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        remedy = "fix this and try again" if download or not named.downloadable else "pass --download for missing files"
        raise UnderstudyError(f"{name} cannot be opened in {folder} ({reason}); {remedy}") from error


def _torchvision(name: str, named: NamedSet, folder: Path, download: bool, size: int | None, seed: int) -> Splits:
    datasets = {
        split: _construct(name, named, folder, options, download=download) for split, options in named.splits.items()
    }
    train = datasets["train"]
    found = (getattr(train, attribute, None) for attribute in ("classes", "categories", "all_categories"))
    classes = named.names or next(filter(None, found), tuple(map(str, range(named.classes))))
    if isinstance(getattr(train, "data", None), np.ndarray):
        sources: dict[str, Source] = {}
        for split, d in datasets.items():
            labels = _labels(d, named) if named.classes else None
            sources[split] = array_source(name, d.data, labels, classes, split=split)
        splits = Splits.from_dict(sources)
    else:
        images = {split: (d, torch.as_tensor(_labels(d, named))) for split, d in datasets.items()}
        splits = open_images(name, images, classes, size)
    return hold_out_test(splits.train, seed) if named.splits is TRAIN_ONLY else splits


def _labels(dataset: Any, named: NamedSet) -> Tensor | Any:
    """(N,) class indices, without decoding images."""
    stored = stored_labels(dataset)
    if stored is None and named.kind == "INaturalist":
        stored = [label for label, _ in dataset.index]
    if isinstance(stored, list) and None in stored:
        raise UnderstudyError(f"{dataset.__class__.__name__} has a split without labels; add the file with its labels")
    if stored is not None:
        labels = np.asarray(stored)
        labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST's further columns identify the writer
        return labels.astype(np.int64) - named.first_label
    import h5py  # pyright: ignore[reportMissingImports]  # for PCAM, which requires it anyway

    with h5py.File(dataset._base_folder / dataset._FILES[dataset._split]["targets"][0]) as file:
        targets: Any = file["y"]
        return targets[:, 0, 0, 0].astype(np.int64)
