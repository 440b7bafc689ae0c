"""The ResNets of Big Transfer (Kolesnikov, Beyer et al. 2020, section 3 and appendix), built from timm's layers."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from timm.models.resnetv2 import ResNetV2

DEPTHS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks per stage, by the number of weight layers. The paper has 50, 101 and 152."""

NORMS = ("gn+ws", "gn", "bn", "bn+ws")
ROOTS = ("imagenet", "cifar")

OFFICIAL_SIZE = (224, 224)
"""Image size that the official weights were trained with."""

# Of the official weights; timm's versions use 1e-8, which is too large for weights that have shrunk.
STANDARDIZATION_EPS = 1e-10
_CHANNELS, _ROOT_CHANNELS, _GROUPS = (256, 512, 1024, 2048), 64, 32


def bit(name: str, channels: int, classes: int, *, norm: str = "gn+ws", root: str = "imagenet") -> ResNetV2:
    """A pre-activation bottleneck ResNet with a zero-initialized head, (B, channels, H, W) -> (B, classes).

    Args:
        name: depth and width, as in `R50x1`; depths are those of `DEPTHS`, widths multiples of 1/8.
        norm: GroupNorm (eps 1e-5, 32 groups, or two channels per group in narrow layers) or BatchNorm, with or without
            Weight Standardization (biased variance, eps 1e-10): the paper's ablation.
        root: "imagenet" is a 7x7/2 convolution and 3x3/2 max pooling, zero-padded by 3 and 1; "cifar" is a 3x3/1
            convolution without pooling, for images of 32 to 64 pixels, whose final feature maps are 4 to 8 pixels wide.
    """
    from timm.layers.create_conv2d import create_conv2d
    from timm.layers.norm_act import BatchNormAct2d
    from timm.layers.std_conv import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    depth, width = _size(name)
    for option, value, known in (("norm", norm, NORMS), ("root", root, ROOTS)):
        if value not in known:
            raise UnderstudyError(f"bit:{name} has no {option} {value!r}; choose from {', '.join(known)}")
    standardized = norm.endswith("+ws")
    conv = partial(StdConv2d, eps=STANDARDIZATION_EPS) if standardized else create_conv2d
    root_channels = int(_ROOT_CHANNELS * width)
    net = ResNetV2(
        list(DEPTHS[depth]),
        channels=tuple(int(size * width) for size in _CHANNELS),
        num_classes=classes,
        in_chans=channels,
        stem_chs=root_channels,
        stem_type="fixed",
        conv_layer=conv,  # type: ignore[arg-type]  # annotated as a class
        norm_layer=BatchNormAct2d if norm.startswith("bn") else _group_norm,
    )
    if root == "cifar":
        net.stem = nn.Sequential(OrderedDict(conv=conv(channels, root_channels, 3, stride=1)))
        net.init_weights(zero_init_last=False)
        net.stem_feat_idx = 0
        for entry in net.feature_info:
            entry["reduction"] = max(entry["reduction"] // 4, 1)
    zero_init(net.head.fc)
    return net


def _size(name: str) -> tuple[int, float]:
    match = re.fullmatch(r"R(\d+)x(\d+(?:\.\d+)?)", name)
    if match is None:
        hint = f"; official weights are loaded as bit:PATH/{name}.npz" if name.startswith("BiT-") else ""
        raise UnderstudyError(f"bit:{name} is not a model: write depth and width as in bit:R50x1{hint}")
    depth, width = int(match[1]), float(match[2])
    if depth not in DEPTHS:
        raise UnderstudyError(f"bit:{name} has an unknown depth; choose from {', '.join(map(str, DEPTHS))}")
    if not 0 < width <= 8 or width * 8 % 1:
        raise UnderstudyError(f"bit:{name} has an invalid width; use a multiple of 0.125 up to 8, such as 0.5, 1 or 3")
    return depth, width


def model_name(layers: tuple[int, ...], root_channels: int) -> str | None:
    """The name of the model with these blocks per stage and this many root channels, or None."""
    depth = next((depth for depth, blocks in DEPTHS.items() if blocks == layers), None)
    return None if depth is None or root_channels % 8 else f"R{depth}x{root_channels / _ROOT_CHANNELS:g}"


def _group_norm(channels: int, **options: Any) -> nn.Module:
    """32 groups, or fewer so that each has two channels: normalizing a single 1x1 channel would erase it."""
    from timm.layers.norm_act import GroupNormAct

    return GroupNormAct(channels, math.gcd(_GROUPS, channels // 2), **options)


def zero_init(head: nn.Module) -> None:
    """Set the weights and biases of a classifier to zero, as for transfer (section 3.3)."""
    for parameter in head.parameters():
        nn.init.zeros_(parameter)


def use_official_eps(net: nn.Module) -> None:
    """Set the epsilon of timm's BiT models to that of the original training."""
    from timm.layers.std_conv import StdConv2d

    for layer in net.modules():
        if isinstance(layer, StdConv2d):
            layer.eps = STANDARDIZATION_EPS
