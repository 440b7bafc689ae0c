"""Layers to tap: the ends of a network's stages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from understudy.models.dropout import CounterDropout
from understudy.models.heads import find_heads

# Layers that only pass on, normalize or reduce the output of the layer before them: never the end of a stage.
_PASS_THROUGH = (
    nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, CounterDropout, nn.LayerNorm,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish)
_MARGIN = 0.2  # of the logarithm of height over width: more than the rounding of odd sizes


def channels_first(x: Tensor, image: tuple[int, ...], *, declared_last: bool = False) -> Tensor:
    """A layer's output as (B, C, H, W), for networks such as Swin that use (B, H, W, C).

    Height and width shrink together, so the channels are the axis that leaves the other two with the aspect ratio of
    the `image` (C, H, W). `declared_last`, whether the network declares channels-last outputs, decides ambiguous cases.
    """
    if x.dim() != 4 or len(image) != 3 or not x.numel():
        return x
    _, first, second, third = x.shape
    if_first, if_last = (abs(log(h / w * image[2] / image[1])) for h, w in ((second, third), (first, second)))
    last = if_last <= if_first if declared_last else if_last + _MARGIN < if_first
    return x.movedim(3, 1) if last else x


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module has depthwise convolutions, as mobile networks do."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return any(layer.groups == layer.in_channels > 1 for layer in convolutions)


def stages(module: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    """Paths of the last layer of each stage, from input to output: the default taps.

    They are the module's own `stage_paths` (the CIFAR networks); else the last layer of each resolution in timm's
    `feature_info`, or four evenly spaced layers if all have the same; else found in a forward pass: the last layer
    before each change of spatial size, or for vectors before the next linear layer. A stem of a single layer is no
    stage if the others are blocks. The module must be in eval mode; inputs are (1, C, H, W) or (1, D).
    """
    declared = getattr(module, "stage_paths", None)
    if declared:
        return tuple(declared)
    modules = dict(module.named_modules())
    paths = [
        path for path in _from_timm(module) if path and not isinstance(modules.get(path), (NoneType, *_PASS_THROUGH))
    ]
    paths = paths or _from_forward(module, inputs)
    blocks = [path for path in paths if _is_block(modules[path])]
    return tuple(blocks or paths)


def activations(module: nn.Module, inputs: Tensor, paths: Collection[str]) -> dict[str, str]:
    """Of layers, by path, the path of the activation that ends each or directly follows it, with no weights between.

    Of a residual block that is the one after the sum, in a pre-activation network the first one of the next stage.
    Layers without such an activation are left out. The module must be in eval mode; inputs are (1, C, H, W) or (1, D).

    >>> net = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU())
    >>> activations(net.eval(), torch.zeros(1, 2), ["0", "1"])
    {'0': '0.1', '1': '3'}
    """
    found: dict[str, str] = {}
    waiting: dict[str, torch.Size] = {}  # layers whose next activation is looked for
    activated: dict[int, tuple[str, Tensor]] = {}  # outputs by their ids, which are not used again while they live

    def before(path: str, layer: nn.Module, args: Any) -> None:
        found.update({tap: path for tap, shape in waiting.items() if args[0].shape == shape})
        waiting.clear()

    def weighted(layer: nn.Module, args: Any) -> None:
        waiting.clear()

    def after(path: str, layer: nn.Module, args: Any, output: Any) -> None:
        activated[id(output)] = path, output

    def end(path: str, layer: nn.Module, args: Any, output: Any) -> None:
        if id(output) in activated:
            found[path] = activated[id(output)][0]
        elif isinstance(output, Tensor):
            waiting[path] = output.shape

    hooks = []
    for path, layer in module.named_modules():
        if isinstance(layer, _ACTIVATIONS):
            hooks.append(layer.register_forward_pre_hook(partial(before, path)))
            hooks.append(layer.register_forward_hook(partial(after, path)))
        elif isinstance(layer, _LAYERS):
            hooks.append(layer.register_forward_pre_hook(weighted))
        if path in paths:
            hooks.append(layer.register_forward_hook(partial(end, path)))
    _run_once(module, inputs, hooks)
    return found


def _run_once(module: nn.Module, inputs: Tensor, hooks: Sequence[RemovableHandle]) -> None:
    """A forward pass under hooks, which are removed after it."""
    try:
        with torch.inference_mode():
            module(inputs)
    finally:
        for hook in hooks:
            hook.remove()


def _is_block(module: nn.Module) -> bool:
    """Whether a module contains layers with weights other than norms."""
    return any(isinstance(part, _LAYERS) for part in module.modules() if part is not module)


def _from_timm(module: nn.Module) -> list[str]:
    info: Any = getattr(module, "feature_info", None) or []
    entries: list[dict[str, Any]] = info if isinstance(info, list) else getattr(info, "info", [])
    paths = [(entry.get("reduction"), entry.get("module", "")) for entry in entries]
    last = dict(paths)  # reduction -> its last layer
    if len(last) == 1 and len(paths) > 4:  # a single resolution, as in a vision transformer
        return [paths[len(paths) * quarter // 4 - 1][1] for quarter in (1, 2, 3, 4)]
    return list(last.values())


@dataclass
class _Call:
    """The call of a layer: `group` differs between stages, `spatial` is true of feature maps."""

    path: str
    group: tuple[int, ...]
    spatial: bool


def _from_forward(module: nn.Module, inputs: Tensor) -> list[str]:
    calls: list[_Call] = []
    linears = 0
    in_head = False  # outputs from the classifier on are not features

    def record(path: str) -> Any:
        def after(layer: nn.Module, args: Any, output: Any) -> None:
            nonlocal linears
            if in_head or not isinstance(output, Tensor) or output.dim() < 2:
                return
            linears += isinstance(layer, nn.Linear)
            if not isinstance(layer, _PASS_THROUGH):
                spatial = output.dim() > 2
                calls.append(_Call(path, tuple(output.shape[2:]) if spatial else (linears,), spatial))

        return after

    def before_head(layer: nn.Module, args: Any) -> None:
        nonlocal in_head
        in_head = True

    hooks = [module.get_submodule(path).register_forward_pre_hook(before_head) for path in find_heads(module, inputs)]
    hooks += [layer.register_forward_hook(record(path)) for path, layer in _chain(module).items()]
    _run_once(module, inputs, hooks)
    if any(call.spatial for call in calls):
        calls = [call for call in calls if call.spatial]
    # a sequence that spans several stages is the end of none
    groups = {
        call.path: {part.group for part in calls if f"{part.path}.".startswith(f"{call.path}.")} for call in calls
    }
    calls = [call for call in calls if len(groups[call.path]) == 1]
    following = [*[call.group for call in calls[1:]], None][: len(calls)]
    return [call.path for call, group in zip(calls, following, strict=True) if call.group != group]


def _chain(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Layers that run in sequence: the children, and those of nested `Sequential`s."""
    layers: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            layers |= _chain(child, f"{prefix}{name}.")
        layers[f"{prefix}{name}"] = child
    return layers
