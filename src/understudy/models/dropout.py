"""Dropout whose mask is a pure function of (seed, view, layer, unit)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.randomness import mix, unit_bits


class _Mask(torch.autograd.Function):
    """`x * mask * scale`, keeping one byte a unit for the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * mask).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        (mask,) = ctx.saved_tensors
        return (grad * mask).mul_(ctx.scale), None, None


class CounterDropout(nn.Dropout):
    """`nn.Dropout` that draws each sample's mask from that sample's own seed.

    A `Network` sets `rows`, (B,) int64 seeds, before each training forward. The mask then depends neither on
    the other rows of the batch nor on any generator's state, so micro-batches, ranks and resumed runs drop
    the same units; it is also several times faster on a CPU than drawing in sequence. With `rows` unset it is
    `nn.Dropout`.
    """

    rows: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return input
        if self.rows is None:
            return F.dropout(input, self.p, training=True)
        drop = round(self.p * 65536)
        if drop == 65536:
            return input * 0.0
        # a layer may see several windows or tokens of each sample as rows of its own
        bits = unit_bits(self.rows, input.numel() // max(len(self.rows), 1)).reshape(input.shape)
        return _Mask.apply(input, bits >= drop - 32768, 65536 / (65536 - drop))


def count_dropouts(module: nn.Module) -> list[CounterDropout]:
    """Replace every plain `nn.Dropout` inside by a `CounterDropout`; all of them, in module order."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, CounterDropout(child.p))
    return [layer for layer in module.modules() if isinstance(layer, CounterDropout)]


def seed_dropouts(layers: list[CounterDropout], noise: int, view: Tensor | None) -> None:
    """Give each layer its rows' seeds for the next forward: a function of the member's seed, the view, the layer.

    Without a view the layers become plain dropout again.
    """
    for index, layer in enumerate(layers):
        layer.rows = None if view is None else mix(noise, index, view)
