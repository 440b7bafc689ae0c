"""VGG with BatchNorm and a single linear layer (Simonyan & Zisserman 2015), for small images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.models.cifar.blocks import Staged, conv_bn, initialized

DEPTHS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Number of convolutions in the stem and in each stage."""

_WIDTHS = (64, 128, 256, 512, 512)


class HalveAbove(nn.Module):
    """2x2 max pooling of maps larger than `side`, so that the last stage has 4x4 maps for 32 and 64 pixels."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if max(x.shape[2:]) > self.side else x


def vgg(channels: int, classes: int, *, depth: int) -> Staged:
    """Five groups of 3x3 convolutions: the stem, and four stages that start with max pooling."""
    pools = (None, nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2), HalveAbove(4))
    groups: list[nn.Module] = []
    for pool, count, width in zip(pools, DEPTHS[depth], _WIDTHS, strict=True):
        convs = [conv_bn(channels if i == 0 else width, width, 3, bias=True) for i in range(count)]
        groups.append(nn.Sequential(*([pool] if pool else []), *convs))
        channels = width
    return initialized(Staged(groups[0], groups[1:], nn.Identity(), 512, classes), head_std=0.01)
