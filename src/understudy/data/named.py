"""The data sets that go by a name, opened; `named_sets.py` has the table of them."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from understudy.data.arrays import array_source, listed_labels, open_images
from understudy.data.gather import Part, as_splits
from understudy.data.named_sets import NAMED, WHOLE, NamedSet
from understudy.data.select import stratified_split
from understudy.data.source import Splits
from understudy.errors import UnderstudyError, nearest


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
    if below is None and not (download and named.fetched):
        if not named.fetched:
            raise UnderstudyError(
                f"{name} is not in {home}, where {named.folder} was looked for, also in {home / name}; it cannot be "
                f"downloaded: put it there as torchvision's {named.kind} wants it, or name its place with --data-root"
            )
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
    return _divided(Splits(array_source("digits", pixels, bunch.target)), seed)


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
        labels = labels.astype(np.int64) - named.first
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
    extra = {"download": download} if named.fetched else {}  # not all take the word
    try:
        return make(below, **options, **extra)
    except (RuntimeError, OSError, ImportError, ValueError) as fault:
        why = str(fault).strip().splitlines()[0].rstrip(".") if str(fault).strip() else type(fault).__name__
        mend = (
            "mend that and try again" if download or not named.fetched else "pass --download to fetch what is missing"
        )
        raise UnderstudyError(f"{name} cannot be opened in {below} ({why}); {mend}") from fault


def _torchvision(name: str, named: NamedSet, below: Path, download: bool, size: int | None, seed: int) -> Splits:
    sets = {part: _make(name, named, below, options, download=download) for part, options in named.parts.items()}
    first = sets["train"]
    found = (getattr(first, name, None) for name in ("classes", "categories", "all_categories"))
    classes = named.names or next(filter(None, found), tuple(map(str, range(named.classes))))
    if isinstance(getattr(first, "data", None), np.ndarray):
        splits = as_splits(
            {
                part: array_source(name, made.data, _labels(made, named) if named.classes else None, classes, part=part)
                for part, made in sets.items()
            }
        )
    else:
        images = {part: (made, torch.as_tensor(_labels(made, named))) for part, made in sets.items()}
        splits = open_images(name, images, classes, size)
    return _divided(splits, seed) if named.parts is WHOLE else splits


def _labels(dataset: Any, named: NamedSet) -> Tensor | Any:
    """(N,) integers from 0, without decoding an image."""
    listed = listed_labels(dataset)
    if listed is None and named.kind == "INaturalist":
        listed = [label for label, _ in dataset.index]
    if isinstance(listed, list) and None in listed:
        raise UnderstudyError(f"{dataset.__class__.__name__} has a part without labels; add the file that has them")
    if listed is not None:
        found = np.asarray(listed)
        return (found[:, 0] if found.ndim == 2 else found).astype(np.int64) - named.first  # QMNIST's say who wrote, too
    import h5py  # pyright: ignore[reportMissingImports]  # PCAM, the one left, cannot be read without it

    with h5py.File(dataset._base_folder / dataset._FILES[dataset._split]["targets"][0]) as file:
        labels: Any = file["y"]
        return labels[:, 0, 0, 0].astype(np.int64)
