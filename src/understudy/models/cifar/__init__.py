"""The networks of the CIFAR-100 distillation tables (Tian et al. 2020), for images of about 32 pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from understudy.models.cifar.blocks import Staged
from understudy.models.cifar.mobile import mobilenetv2, shufflenetv1, shufflenetv2
from understudy.models.cifar.resnets import resnet, resnet50, wrn
from understudy.models.cifar.vgg import DEPTHS, vgg

WIDE = (32, 64, 128, 256)

NETS: dict[str, Callable[[int, int], Staged]] = {
    **{f"resnet{depth}": partial(resnet, depth=depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(resnet, depth=depth, widths=WIDE) for depth in (8, 32)},
    "resnet50": resnet50,
    **{f"wrn_{depth}_{widen}": partial(wrn, depth=depth, widen=widen) for depth in (16, 40) for widen in (1, 2)},
    **{f"vgg{depth}": partial(vgg, depth=depth) for depth in DEPTHS},
    "mobilenetv2": mobilenetv2,
    "shufflenetv1": shufflenetv1,
    "shufflenetv2": shufflenetv2,
}
"""Name -> constructor, called with the number of input channels and of classes."""

__all__ = ["NETS", "Staged"]
