"""NYU-Depth v2's labelled file: pairs of colour and depth, by kind of scene (Silberman et al. 2012)."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.data.gather import DEFAULT_SIZE, check_classes, falls_to_test, position_ids
from understudy.data.records import printable
from understudy.data.source import ArraySource, Splits
from understudy.errors import UnderstudyError
from understudy.randomness import name_key

_NEEDED = ("images", "depths", "sceneTypes")
_TOGETHER = 64  # images in memory at their full size


def open_nyu(path: Path, *, size: int | None, seed: int) -> Splits:
    """Open `nyu_depth_v2_labeled.mat`, as MATLAB wrote it: HDF5, with width before height.

    Images (N, 3, S, S) uint8 with `depth` (N, 1, S, S) float32, in metres, as their pair: the centre squares, S
    being `size`, or 224. The classes are the kinds of scene. The file has no test part: about a fifth of the
    scenes is held out, each with all its frames, which show the same room.

    Raises:
        UnderstudyError: h5py is not installed, or the file is not of this kind.
    """
    name = printable(os.fspath(path))
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as fault:
        raise UnderstudyError(
            f"{name} needs the package h5py, which is not installed; pip install 'understudy[nyu]'"
        ) from fault
    try:
        with h5py.File(path) as file:
            missing = [key for key in _NEEDED if key not in file]
            if missing:
                raise UnderstudyError(
                    f"{name} has no {missing[0]!r}; of .mat files only nyu_depth_v2_labeled.mat is read"
                )
            side = size or DEFAULT_SIZE
            images, depths = _squares(file["images"], side), _squares(file["depths"], side)
            kinds = _words(file, "sceneTypes")
            scenes = _words(file, "scenes") if "scenes" in file else list(map(str, range(len(kinds))))
    except OSError as fault:
        raise UnderstudyError(f"{name} is not a whole HDF5 file ({fault}); fetch it again") from fault
    lengths = {len(images), len(depths), len(kinds), len(scenes)}
    if len(lengths) > 1:
        raise UnderstudyError(
            f"{name} holds {len(images):,} images, {len(depths):,} depths and {len(kinds):,} kinds of scene, which "
            "should be as many; fetch it again"
        )
    classes = tuple(sorted(set(kinds)))
    check_classes(name, classes)
    ids, targets = position_ids(len(kinds)), torch.tensor([classes.index(kind) for kind in kinds])
    depth = ArraySource(name, classes, ids, targets, tuple(depths.shape[1:]), modality="depth", inputs=depths)
    whole = ArraySource(name, classes, ids, targets, tuple(images.shape[1:]), pairs={"depth": depth}, inputs=images)
    test = falls_to_test(torch.tensor([name_key(scene) for scene in scenes]), targets, seed)
    if not test.any():
        return Splits(whole)
    return Splits(whole.subset((~test).nonzero().flatten()), whole.subset(test.nonzero().flatten()))


def _squares(stored: Any, side: int) -> Tensor:
    """The centre squares of (N, C, W, H) or (N, W, H), brought to a side: (N, C, side, side), bytes as bytes."""
    parts = []
    for start in range(0, len(stored), _TOGETHER):
        some = torch.from_numpy(np.asarray(stored[start : start + _TOGETHER]))
        x = (some if some.dim() == 4 else some[:, None]).transpose(2, 3)
        short = min(x.shape[2:])
        top, left = (x.shape[2] - short) // 2, (x.shape[3] - short) // 2
        square = x[:, :, top : top + short, left : left + short].float()
        square = F.interpolate(square, (side, side), mode="bilinear", antialias=True, align_corners=False)
        parts.append(square.round().clamp(0, 255).byte() if some.dtype == torch.uint8 else square)
    return torch.cat(parts)


def _words(file: Any, key: str) -> list[str]:
    """A cell array of strings: references to arrays of character codes."""
    return ["".join(map(chr, np.asarray(file[cell]).flatten())) for cell in np.asarray(file[key]).flatten()]
