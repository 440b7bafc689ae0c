"""The nets of Big Transfer (Kolesnikov, Beyer et al. 2020, section 3 and appendix), from timm's parts."""

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
"""Blocks of each stage, by the number of layers with weights. The paper has 50, 101 and 152."""

NORMS = ("gn+ws", "gn", "bn", "bn+ws")
ROOTS = ("imagenet", "cifar")

OFFICIAL_SIZE = (224, 224)
"""Of the images that the official weights were learnt on."""

# Of the official weights; timm's nets of theirs have 1e-8, which is too much where weights have shrunk.
STANDARDISATION_EPS = 1e-10
_CHANNELS, _ROOT_CHANNELS, _GROUPS = (256, 512, 1024, 2048), 64, 32


def bit(name: str, channels: int, classes: int, *, norm: str = "gn+ws", root: str = "imagenet") -> ResNetV2:
    """A pre-activation ResNet of bottlenecks with a zeroed head, (B, channels, H, W) -> (B, classes).

    Args:
        name: R, depth, x and width, as `R50x1`: a depth of `DEPTHS`; widths are multiples of 1/8.
        norm: GroupNorm (eps 1e-5, 32 groups, in narrower layers fewer of two channels) or BatchNorm, with or without
            Weight Standardization (biased variance, eps 1e-10): the paper's ablation.
        root: "imagenet" is 7x7/2, padded by 3, then padded by a zero and 3x3/2 max-pooled; "cifar" is 3x3/1 without
            pooling, for images of 32 to 64 pixels, on which it leaves maps of 4 to 8 pixels.

    Raises:
        UnderstudyError: there is no such net, norm or root.
    """
    from timm.layers.create_conv2d import create_conv2d
    from timm.layers.norm_act import BatchNormAct2d
    from timm.layers.std_conv import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    depth, width = _size(name)
    for option, value, known in (("norm", norm, NORMS), ("root", root, ROOTS)):
        if value not in known:
            raise UnderstudyError(f"bit:{name} has no {option} {value!r}; there are {', '.join(known)}")
    standardised = norm.endswith("+ws")
    conv = partial(StdConv2d, eps=STANDARDISATION_EPS) if standardised else create_conv2d
    wide = int(_ROOT_CHANNELS * width)
    net = ResNetV2(
        list(DEPTHS[depth]),
        channels=tuple(int(size * width) for size in _CHANNELS),
        num_classes=classes,
        in_chans=channels,
        stem_chs=wide,
        stem_type="fixed",
        conv_layer=conv,  # type: ignore[arg-type]  # timm's annotation asks for a class
        norm_layer=BatchNormAct2d if norm.startswith("bn") else _group_norm,
    )
    if root == "cifar":
        net.stem = nn.Sequential(OrderedDict(conv=conv(channels, wide, 3, stride=1)))
        net.init_weights(zero_init_last=False)
        net.stem_feat_idx = 0
        for tap in net.feature_info:
            tap["reduction"] = max(tap["reduction"] // 4, 1)
    zero(net.head.fc)
    return net


def _size(name: str) -> tuple[int, float]:
    match = re.fullmatch(r"R(\d+)x(\d+(?:\.\d+)?)", name)
    if match is None:
        hint = f"; a file of the official weights is bit:PATH/{name}.npz" if name.startswith("BiT-") else ""
        raise UnderstudyError(f"bit:{name} is not understood: write R, depth, x and width, as bit:R50x1{hint}")
    depth, width = int(match[1]), float(match[2])
    if depth not in DEPTHS:
        raise UnderstudyError(f"bit:{name}: there is no depth {depth}; there are {', '.join(map(str, DEPTHS))}")
    if not width or width * 8 % 1:
        raise UnderstudyError(f"bit:{name}: a width is a multiple of 0.125, as 0.5, 1 or 3")
    return depth, width


def named(layers: tuple[int, ...], root_channels: int) -> str | None:
    """The name of the net with so many blocks a stage and channels of the root, or None."""
    depth = next((depth for depth, blocks in DEPTHS.items() if blocks == layers), None)
    return None if depth is None or root_channels % 8 else f"R{depth}x{root_channels / _ROOT_CHANNELS:g}"


def _group_norm(channels: int, **options: Any) -> nn.Module:
    """32 groups, or as many as leave two channels in each: of 1x1 maps, a channel normalised alone says nothing."""
    from timm.layers.norm_act import GroupNormAct

    return GroupNormAct(channels, math.gcd(_GROUPS, channels // 2), **options)


def zero(head: nn.Module) -> None:
    """Set a classifier's weights and biases to zero, as transfers begin (section 3.3)."""
    for parameter in head.parameters():
        nn.init.zeros_(parameter)


def use_official_eps(net: nn.Module) -> None:
    """Give timm's nets of the official weights the epsilon that these were trained with."""
    from timm.layers.std_conv import StdConv2d

    for layer in net.modules():
        if isinstance(layer, StdConv2d):
            layer.eps = STANDARDISATION_EPS
