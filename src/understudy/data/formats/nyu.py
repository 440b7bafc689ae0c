"""NYU-Depth v2, labeled subset: RGB and depth pairs by scene type (Silberman et al. 2012)."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.data.formats.build import DEFAULT_SIZE
from understudy.data.formats.index import position_ids
from understudy.data.formats.labels import check_classes
from understudy.data.formats.records import escape_name
from understudy.data.select import hash_split
from understudy.data.source import ArraySource, Splits
from understudy.errors import UnderstudyError
from understudy.randomness import name_key

_NEEDED = ("images", "depths", "sceneTypes")
_CHUNK = 64  # images held in memory at full size


def hdf5_for(name: str) -> ModuleType:
    """The package h5py, which reads the file `name`.

    Raises:
        UnderstudyError: it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise UnderstudyError(f"{name} needs the package h5py; pip install 'understudy[nyu]'") from error


def open_nyu(path: Path, *, size: int | None, seed: int) -> Splits:
    """Open `nyu_depth_v2_labeled.mat`, a MATLAB 7.3 file: HDF5 with width before height.

    Images are (N, 3, S, S) uint8, paired with `depth` as (N, 1, S, S) float32 in meters: center squares, resized to
    `size` or 224. Classes are scene types. About a fifth of the scenes is held out for testing, each with all of its
    frames, as these show the same room.
    """
    name = escape_name(os.fspath(path))
    h5py = hdf5_for(name)
    try:
        with h5py.File(path) as file:
            missing = [key for key in _NEEDED if key not in file]
            if missing:
                raise UnderstudyError(
                    f"{name} has no {missing[0]!r}; of .mat files, only nyu_depth_v2_labeled.mat is supported"
                )
            side = size or DEFAULT_SIZE
            images, depths = _center_squares(file["images"], side), _center_squares(file["depths"], side)
            types = _strings(file, "sceneTypes")
            scenes = _strings(file, "scenes") if "scenes" in file else list(map(str, range(len(types))))
    except OSError as error:
        raise UnderstudyError(f"{name} is not a complete HDF5 file ({error}); download it again") from error
    if len({len(images), len(depths), len(types), len(scenes)}) > 1:
        raise UnderstudyError(
            f"{name} has {len(images):,} images, {len(depths):,} depth maps and {len(types):,} scene types, expected "
            "equal numbers; download it again"
        )
    classes = tuple(sorted(set(types)))
    check_classes(name, classes)
    ids, targets = position_ids(len(types)), torch.tensor([classes.index(t) for t in types])
    depth = ArraySource(name, classes, ids, targets, tuple(depths.shape[1:]), modality="depth", inputs=depths)
    whole = ArraySource(name, classes, ids, targets, tuple(images.shape[1:]), pairs={"depth": depth}, inputs=images)
    test = hash_split(torch.tensor([name_key(scene) for scene in scenes]), targets, seed)
    if not test.any():
        return Splits(whole)
    return Splits(whole.subset((~test).nonzero().flatten()), whole.subset(test.nonzero().flatten()))


def _center_squares(stored: Any, side: int) -> Tensor:
    """Center squares of (N, C, W, H) or (N, W, H), resized: (N, C, side, side), uint8 if stored as uint8."""
    parts = []
    for start in range(0, len(stored), _CHUNK):
        chunk = torch.from_numpy(np.asarray(stored[start : start + _CHUNK]))
        x = (chunk if chunk.dim() == 4 else chunk[:, None]).transpose(2, 3)
        short = min(x.shape[2:])
        top, left = (x.shape[2] - short) // 2, (x.shape[3] - short) // 2
        square = x[:, :, top : top + short, left : left + short].float()
        square = F.interpolate(square, (side, side), mode="bilinear", antialias=True, align_corners=False)
        parts.append(square.round().clamp(0, 255).byte() if chunk.dtype == torch.uint8 else square)
    return torch.cat(parts)


def _strings(file: Any, key: str) -> list[str]:
    """A cell array of strings: references to arrays of character codes."""
    return ["".join(map(chr, np.asarray(file[cell]).flatten())) for cell in np.asarray(file[key]).flatten()]
