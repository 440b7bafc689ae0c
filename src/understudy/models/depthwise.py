"""Depthwise convolutions whose weight gradients on small feature maps take no longer than their inputs'."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.overrides import has_torch_function

Pair = tuple[int, int]


class DepthwiseConv2d(nn.Conv2d):
    """The same convolution; only the weight's gradient is computed in another way, where oneDNN does it slowly.

    On a CPU, where a feature map is smaller than the kernel, oneDNN takes up to fifty times as long for that gradient
    as for that of the input: 3x3 kernels on 2x2 maps, 5x5 kernels on 4x4 maps. MobileNets spend most of an update there
    if images have less than 160 pixels.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (torch.is_grad_enabled() and weight.requires_grad and _is_slow(input, weight)):
            return super()._conv_forward(input, weight, bias)
        out: Tensor = _Convolution.apply(input, weight, self.stride, self.padding)  # type: ignore[no-untyped-call]
        return out if bias is None else out + bias.view(-1, 1, 1)


def speed_up_depthwise(module: nn.Module) -> None:
    """Let the depthwise convolutions of a module be `DepthwiseConv2d`, in place; no value or name changes."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _is_depthwise(layer):
            layer.__class__ = DepthwiseConv2d


def _is_depthwise(layer: nn.Conv2d) -> bool:
    same = layer.groups == layer.in_channels == layer.out_channels > 1
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return same and plain and layer.dilation == (1, 1) and layer.kernel_size != (1, 1)


def _is_slow(input: Tensor, weight: Tensor) -> bool:
    plain = input.device.type == "cpu" and input.dtype == weight.dtype == torch.float32
    small = input.dim() == 4 and min(input.shape[2:]) < max(weight.shape[2:])
    watched = has_torch_function((input, weight)) or torch.compiler.is_compiling()  # as by what rounds the weight
    return plain and small and not watched and not torch.is_autocast_enabled("cpu")


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(input, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        input, weight = ctx.saved_tensors
        to_input, to_weight = None, None
        if ctx.needs_input_grad[0]:
            to_input = conv2d_input(list(input.shape), weight, grad, ctx.stride, ctx.padding, groups=len(weight))
        if ctx.needs_input_grad[1]:
            to_weight = weight_gradient(input, grad, weight.shape[2:], ctx.stride, ctx.padding)
        return to_input, to_weight, None, None


def weight_gradient(input: Tensor, grad: Tensor, kernel: torch.Size, stride: Pair, padding: Pair) -> Tensor:
    """The gradient (C, 1, K, L) of a depthwise convolution's weight, one place of the kernel after the other.

    Args:
        input: (B, C, H, W).
        grad: of the output, (B, C, I, J).
    """
    (rows, columns), (down, right) = grad.shape[2:], stride
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))

    def at(i: int, j: int) -> Tensor:
        seen = padded[:, :, i : i + down * (rows - 1) + 1 : down, j : j + right * (columns - 1) + 1 : right]
        return (seen * grad).sum((0, 2, 3))

    places = [at(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
    return torch.stack(places, 1).view(-1, 1, *kernel)
