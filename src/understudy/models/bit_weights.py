"""The official weights of Big Transfer: NumPy archives such as `BiT-M-R50x1.npz`, read without unpickling."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.models.bit import DEPTHS, model_name
from understudy.models.weights import check_match

if TYPE_CHECKING:
    from timm.models.resnetv2 import ResNetV2

_ROOT = "root_block/standardized_conv2d/kernel"
_HEAD = {"head/conv2d/kernel": "head.fc.weight", "head/conv2d/bias": "head.fc.bias"}


class OfficialWeights:
    """The tensors of a file of official weights, the `name` of their model, as in `R50x1`, and its number of `classes`.

    Keys lack the prefix `resnet/` and the numbers that some files append to layer types (`standardized_conv2d_7`).
    `classes` is 0 without a head. `path` is for error messages.
    """

    def __init__(self, path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        backbone = {key: x for key, x in arrays.items() if key.startswith("resnet/")} or arrays
        for key, array in backbone.items():
            if array.dtype.kind != "f":
                raise UnderstudyError(f"{path}: {key} is {array.dtype} instead of floating point")
            short = re.sub(r"(conv2d|group_norm)_\d+(?=/)", r"\1", key.removeprefix("resnet/"))
            self.tensors[short] = torch.from_numpy(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
        root = self.tensors.get(_ROOT)
        name = None if root is None else model_name(_blocks(self.tensors), root.shape[0])
        if name is None:
            found, r50 = set(self.tensors) - _HEAD.keys(), set(official_keys(DEPTHS[50]))
            raise UnderstudyError(
                f"{path} holds no Big Transfer model; compared with R50x1 "
                f"it lacks {_first(r50 - found)} and has {_first(found - r50)}"
            )
        self.name = name
        self.classes = len(self.tensors.get("head/conv2d/bias", ()))

    def load(self, net: ResNetV2, *, head: bool) -> None:
        """Copy the weights, without or with those of the head, into a model with GroupNorm and Weight Standardization.

        The first kernel is adapted to the model's input channels. The model must be the one that the file is of.
        """
        from timm.models import adapt_input_conv

        blocks = tuple(sum(1 for _ in stage.get_submodule("blocks").children()) for stage in net.stages)
        names = official_keys(blocks) | (_HEAD if head else {})
        own = net.state_dict()
        tensors = {key: x for key, x in self.tensors.items() if key in names or key not in _HEAD}
        root, kernel = tensors[_ROOT], own[names[_ROOT]]
        if root.shape[2:] == kernel.shape[2:]:
            tensors[_ROOT] = adapt_input_conv(kernel.shape[1], root)
        check_match({key: own[name] for key, name in names.items()}, tensors, str(self.path))
        net.load_state_dict(own | {name: tensors[key] for key, name in names.items()})


def official_keys(blocks: tuple[int, ...]) -> dict[str, str]:
    """The official key of each tensor below the head -> its name in timm's model, in the model's order."""
    names = {_ROOT: "stem.conv.weight"}
    for stage, units in enumerate(blocks):
        for unit in range(units):
            key, path = f"block{stage + 1}/unit{unit + 1:02d}", f"stages.{stage}.blocks.{unit}"
            if unit == 0:
                names[f"{key}/a/proj/standardized_conv2d/kernel"] = f"{path}.downsample.conv.weight"
            for number, part in enumerate("abc", 1):
                names[f"{key}/{part}/group_norm/gamma"] = f"{path}.norm{number}.weight"
                names[f"{key}/{part}/group_norm/beta"] = f"{path}.norm{number}.bias"
                names[f"{key}/{part}/standardized_conv2d/kernel"] = f"{path}.conv{number}.weight"
    return names | {"group_norm/gamma": "norm.weight", "group_norm/beta": "norm.bias"}


def read_official(path: Path) -> OfficialWeights:
    """Read a file of official weights; pickled objects are refused."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UnderstudyError(f"{path} is a single array instead of an archive of official weights")
        with archive:
            arrays = dict(archive)
    except UnderstudyError:
        raise
    except FileNotFoundError:
        raise UnderstudyError(
            f"there is no file {path}; official weights are BiT-S-*.npz (trained on ILSVRC-2012) and BiT-M-*.npz "
            "(ImageNet-21k), where * is R50x1, R50x3, R101x1, R101x3 or R152x4: download one, such as https://storage."
            "googleapis.com/bit_models/BiT-M-R50x1.npz, and name the file as in bit:PATH/BiT-M-R50x1.npz"
        ) from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = "holds pickled objects, which are never run" if "pickle" in str(error) else "is damaged or truncated"
        details = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UnderstudyError(f"{path} {reason}; download it again ({details})") from None
    return OfficialWeights(path, arrays)


def _blocks(names: Iterable[str]) -> tuple[int, ...]:
    """The number of units in each block."""
    units = {match.groups() for name in names if (match := re.match(r"block(\d+)/unit(\d+)/", name))}
    count = Counter(block for block, _ in units)
    return tuple(count[block] for block in sorted(count))


def _first(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "nothing else"
