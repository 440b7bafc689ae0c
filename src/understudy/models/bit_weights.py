"""The official weights of Big Transfer: NumPy archives as `BiT-M-R50x1.npz`, read without unpickling."""

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
from understudy.models.bit import DEPTHS, named

if TYPE_CHECKING:
    from timm.models.resnetv2 import ResNetV2

_ROOT = "root_block/standardized_conv2d/kernel"
_HEAD = {"head/conv2d/kernel": "head.fc.weight", "head/conv2d/bias": "head.fc.bias"}


class OfficialWeights:
    """The tensors of one file of the official weights.

    Keys are said without their prefix `resnet/` and without the numbers that some files have after a layer's kind,
    as in `standardized_conv2d_7`.

    Args:
        path: for complaints.
        arrays: as the file has them.

    Attributes:
        name: of the net that they fit, as `R50x1`.
        classes: how many the file's head knows; 0 where it has none.

    Raises:
        UnderstudyError: they are of none of Big Transfer's nets.
    """

    def __init__(self, path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        inside = {key: x for key, x in arrays.items() if key.startswith("resnet/")} or arrays
        for key, array in inside.items():
            if array.dtype.kind != "f":
                raise UnderstudyError(f"{path}: {key} holds {array.dtype}, not floating point numbers")
            plain = re.sub(r"(conv2d|group_norm)_\d+(?=/)", r"\1", key.removeprefix("resnet/"))
            self.tensors[plain] = torch.from_numpy(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
        root = self.tensors.get(_ROOT)
        name = None if root is None else named(_blocks(self.tensors), root.shape[0])
        if name is None:
            own, r50 = set(self.tensors) - _HEAD.keys(), set(keys(DEPTHS[50]))
            raise UnderstudyError(
                f"{path} holds none of Big Transfer's nets; compared with R50x1 "
                f"it lacks {_first(r50 - own)} and has {_first(own - r50)}"
            )
        self.name = name
        self.classes = len(self.tensors.get("head/conv2d/bias", ()))

    def load(self, net: ResNetV2, *, head: bool) -> None:
        """Copy the weights into a net, in place.

        Args:
            net: of GroupNorm and Weight Standardization; the first kernel is fitted to its channels as timm does.
            head: whether the file's classifier is wanted too.

        Raises:
            UnderstudyError: the net is another than the file's; the first keys that differ are named.
        """
        from timm.models import adapt_input_conv

        blocks = tuple(sum(1 for _ in stage.get_submodule("blocks").children()) for stage in net.stages)
        wanted = keys(blocks) | (_HEAD if head else {})
        own = net.state_dict()
        odd = [f"{key} is missing" for key in wanted if key not in self.tensors]
        odd += [f"{key} is not the net's" for key in self.tensors if key not in wanted and key not in _HEAD]
        state: dict[str, Tensor] = {}
        for key, name in wanted.items():
            if key not in self.tensors:
                continue
            x, target = self.tensors[key], own[name]
            if key == _ROOT and x.shape[2:] == target.shape[2:]:
                x = adapt_input_conv(target.shape[1], x)
            if x.shape != target.shape:
                odd.append(f"{key} is {tuple(x.shape)}, the net's {tuple(target.shape)}")
            state[name] = x
        if odd:
            more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
            raise UnderstudyError(f"{self.path} does not fit the net: {'; '.join(odd[:3])}{more}")
        net.load_state_dict(own | state)


def keys(blocks: tuple[int, ...]) -> dict[str, str]:
    """The official key of each tensor below the head, and its name in timm's net, in the net's order."""
    found = {_ROOT: "stem.conv.weight"}
    for stage, units in enumerate(blocks):
        for unit in range(units):
            key, own = f"block{stage + 1}/unit{unit + 1:02d}", f"stages.{stage}.blocks.{unit}"
            if unit == 0:
                found[f"{key}/a/proj/standardized_conv2d/kernel"] = f"{own}.downsample.conv.weight"
            for number, part in enumerate("abc", 1):
                found[f"{key}/{part}/group_norm/gamma"] = f"{own}.norm{number}.weight"
                found[f"{key}/{part}/group_norm/beta"] = f"{own}.norm{number}.bias"
                found[f"{key}/{part}/standardized_conv2d/kernel"] = f"{own}.conv{number}.weight"
    return found | {"group_norm/gamma": "norm.weight", "group_norm/beta": "norm.bias"}


def read_official(path: Path) -> OfficialWeights:
    """Read a file of the official weights.

    Raises:
        UnderstudyError: it is not there, is cut off, holds pickled objects, or is of none of these nets.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UnderstudyError(f"{path} is a single array, not an archive of the official weights")
        with archive:
            arrays = dict(archive)
    except UnderstudyError:
        raise
    except FileNotFoundError:
        raise UnderstudyError(
            f"there is no file {path}; official weights are BiT-S-*.npz (learnt on ILSVRC-2012) and BiT-M-*.npz "
            "(ImageNet-21k), * being R50x1, R50x3, R101x1, R101x3 or R152x4, at https://storage.googleapis.com/"
            "bit_models/BiT-M-R50x1.npz and so on: fetch one, and name where it lies, as bit:PATH/BiT-M-R50x1.npz"
        ) from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = "holds pickled objects, which are never run" if "pickle" in str(error) else "is damaged or cut off"
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UnderstudyError(f"{path} {reason}; fetch it again ({said})") from None
    return OfficialWeights(path, arrays)


def _blocks(names: Iterable[str]) -> tuple[int, ...]:
    """How many units each block has."""
    units = {match.groups() for name in names if (match := re.match(r"block(\d+)/unit(\d+)/", name))}
    found = Counter(block for block, _ in units)
    return tuple(found[block] for block in sorted(found))


def _first(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "nothing else"
