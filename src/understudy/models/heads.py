"""The classifier heads of a module: the one place that knows them all."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init


def possible_heads(module: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear layers and 1x1 convolutions, by path."""
    return {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
    }


def find_heads(module: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    """Paths of the classifiers, in the order in which they run; none if the logits come from other layers.

    They are the linear layers and 1x1 convolutions with an output per class whose outputs reach the logits without
    passing another such layer: one in most networks, several where logits of several are averaged (DeiT's distillation
    token, LeViT, PiT, CrossViT). They are found in a forward pass, which changes nothing.

    Args:
        module: maps `inputs` to logits; in eval mode.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    >>> find_heads(net, torch.zeros(1, 2, 2))
    ('3',)
    """
    outputs: list[tuple[str, Tensor]] = []

    def cut_after(path: str) -> object:
        def cut(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            outputs.append((path, output.detach().requires_grad_()))
            return outputs[-1][1].clone()  # the next layer may work in place

        return cut

    hooks = [layer.register_forward_hook(cut_after(path)) for path, layer in possible_heads(module).items()]  # type: ignore[arg-type]
    try:
        # nothing but the outputs since the last layer of this kind gets a gradient
        with torch.inference_mode(False), torch.enable_grad():
            logits = module(inputs.clone())
            if not outputs or not isinstance(logits, Tensor) or not logits.requires_grad:
                return ()
            gradients = torch.autograd.grad(logits.sum(), [x for _, x in outputs], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    layers = possible_heads(module)
    reached = [path for (path, _), gradient in zip(outputs, gradients, strict=True) if gradient is not None]
    return tuple(path for path in dict.fromkeys(reached) if outputs_of(layers[path]) == logits.shape[1])


def find_pool(module: nn.Module, inputs: Tensor, head: nn.Module) -> str:
    """Path of the layer that pools feature maps into exactly what a classifier reads; "" where there is none.

    Args:
        module: in eval mode.
        inputs: (1, C, H, W) that are not all alike.
    """
    pooled: list[tuple[str, Tensor, Tensor]] = []
    read: list[Tensor] = []

    def keep(path: str) -> object:
        def after(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            pooled.append((path, args[0], output))

        return after

    pools = {
        path: layer for path, layer in module.named_modules() if isinstance(layer, (nn.AdaptiveAvgPool2d, nn.AvgPool2d))
    }
    hooks = [layer.register_forward_hook(keep(path)) for path, layer in pools.items()]  # type: ignore[arg-type]
    hooks.append(head.register_forward_pre_hook(lambda _, args: read.append(args[0])))
    try:
        module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for path, before, after in reversed(pooled):
        if read and before.dim() == 4 and torch.equal(after.flatten(1), read[-1].flatten(1)):
            return path
    return ""


def outputs_of(head: nn.Linear | nn.Conv2d) -> int:
    """The number of outputs of a classifier."""
    return len(head.weight)


def new_head(old: nn.Linear | nn.Conv2d, classes: int) -> nn.Linear | nn.Conv2d:
    """A classifier with fresh weights that reads what another one reads."""
    bias = old.bias is not None
    if isinstance(old, nn.Conv2d):
        return nn.Conv2d(old.in_channels, classes, 1, bias=bias)
    return nn.Linear(old.in_features, classes, bias=bias)


def select(head: nn.Linear | nn.Conv2d, order: list[int]) -> nn.Linear | nn.Conv2d:
    """A classifier whose output i is what output `order[i]` of another is; none leaves what reads an embedding only.

    >>> select(nn.Linear(4, 3), []).weight.shape
    torch.Size([0, 4])
    """
    kind: Any = nn.Linear if isinstance(head, nn.Linear) else nn.Conv2d if order else _NoOutputs
    width, size = (head.in_features, {}) if isinstance(head, nn.Linear) else (head.in_channels, {"kernel_size": 1})
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about layers without outputs, which have nothing to initialize
        made: Any = skip_init(kind, width, len(order), bias=head.bias is not None, device=head.weight.device, **size)
        for own, other in zip(made.parameters(), head.parameters(), strict=True):
            own.copy_(other[order])
    return made.requires_grad_(head.weight.requires_grad)


class _NoOutputs(nn.Conv2d):
    """A convolution without outputs, which PyTorch cannot compute as it can such a linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        return input[:, :0]


def zero(head: nn.Module) -> None:
    """Set the weights and biases of a classifier to zero, as for transfer (Big Transfer, section 3.3)."""
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
