"""Dropout whose mask is a pure function of (seed, view, layer, unit)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.randomness import mix, unit_bits


class _Mask(torch.autograd.Function):
    """`x * mask * scale`, saving one byte per unit for the backward pass."""

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
    """`nn.Dropout` with a separate random seed for each sample.

    A `Network` sets `seeds`, (B,) int64, before each training forward pass. The mask of a sample then depends
    neither on the rest of the batch nor on the state of a generator, so micro-batches, ranks and resumed runs drop
    the same units. On a CPU it is also several times faster than sequential sampling. Without `seeds` it is
    plain `nn.Dropout`.
    """

    seeds: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return input
        if self.seeds is None:
            return F.dropout(input, self.p, training=True)
        threshold = round(self.p * 65536)
        if threshold == 65536:
            return input * 0.0
        # the first dimension may be a multiple of the batch, as with windows or tokens folded into it
        bits = unit_bits(self.seeds, input.numel() // max(len(self.seeds), 1)).reshape(input.shape)
        return _Mask.apply(input, bits >= threshold - 32768, 65536 / (65536 - threshold))


def replace_dropouts(module: nn.Module) -> list[CounterDropout]:
    """Replace each plain `nn.Dropout` in a module by a `CounterDropout`; returns all of these in module order."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, CounterDropout(child.p))
    return [layer for layer in module.modules() if isinstance(layer, CounterDropout)]


def seed_dropouts(layers: list[CounterDropout], seed: int, view: Tensor | None) -> None:
    """Seed each layer for the next forward pass by `seed`, its number and the view (B,) int64; None: plain dropout."""
    for index, layer in enumerate(layers):
        layer.seeds = None if view is None else mix(seed, index, view)
