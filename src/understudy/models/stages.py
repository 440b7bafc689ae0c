"""Where a net is tapped: the ends of its stages, and its classifier."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.models.dropout import CounterDropout

# These only pass on what the layer before them has said, or lose some of it.
_MUTE = (
    nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, CounterDropout, nn.LayerNorm,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_CLEARLY = 0.2  # in the logarithm of height over width: more than the rounding of odd sides


def find_head(module: nn.Module) -> str:
    """The path of the classifier: the last linear layer or 1x1 convolution in module order."""
    paths = _heads(module)
    if not paths:
        raise UnderstudyError(f"{type(module).__name__} has no linear classifier whose input could be the embedding")
    return paths[-1]


def has_head(module: nn.Module) -> bool:
    """Whether there is a classifier to find."""
    return bool(_heads(module))


def _heads(module: nn.Module) -> list[str]:
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
    ]


def channels_first(x: Tensor, image: tuple[int, ...], *, declared_last: bool = False) -> Tensor:
    """A layer's output with its channels in the second axis: some nets, as Swin, keep theirs in the last.

    An image's height and width shrink together, so that the channels are where the other two axes have its proportions.

    Args:
        x: what a layer put out; other than (B, C, H, W) or (B, H, W, C) it is left alone.
        image: (C, H, W) of the images that the net reads.
        declared_last: whether the net says that its channels are last, which decides where the sides could be either.
    """
    if x.dim() != 4 or len(image) != 3 or not x.numel():
        return x
    _, first, second, third = x.shape
    kept, turned = (abs(log(h / w * image[2] / image[1])) for h, w in ((second, third), (first, second)))
    last = turned <= kept if declared_last else turned + _CLEARLY < kept
    return x.movedim(3, 1) if last else x


def is_depthwise(module: nn.Module) -> bool:
    """Whether it has convolutions of one channel at a time, as mobile nets do."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return any(layer.groups == layer.in_channels > 1 for layer in convolutions)


def stages(module: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    """Paths of the ends of a net's stages, from the input to the output: what is tapped where nothing is named.

    In this order: the net's own `stage_paths` (the zoo's); timm's `feature_info`, one layer a resolution (or
    four evenly spaced ones where all have the same); otherwise what a forward pass shows: for images the last
    layer before each change of size, for vectors the last layer before each next linear one. A stem's single
    layer is no stage where others are blocks of layers.

    Args:
        module: in eval mode; it is run under inference mode where its layers must be seen.
        inputs: (1, C, H, W) or (1, D), as the module reads them.
    """
    own = getattr(module, "stage_paths", None)
    if own:
        return tuple(own)
    modules = dict(module.named_modules())
    paths = [path for path in _from_timm(module) if not isinstance(modules.get(path), (NoneType, *_MUTE))]
    paths = paths or _from_a_pass(module, inputs)
    blocks = [path for path in paths if _is_block(modules[path])]
    return tuple(blocks or paths)


def _is_block(module: nn.Module) -> bool:
    """Whether layers with weights are inside it, beside norms."""
    return any(isinstance(part, _LAYERS) for part in module.modules() if part is not module)


def _from_timm(module: nn.Module) -> list[str]:
    info: Any = getattr(module, "feature_info", None) or []
    entries: list[dict[str, Any]] = info if isinstance(info, list) else getattr(info, "info", [])
    paths = [(entry.get("reduction"), entry.get("module", "")) for entry in entries]
    last = dict(paths)  # reduction -> the last layer of it
    if len(last) == 1 and len(paths) > 4:  # one resolution throughout, as in a vision transformer
        return [paths[len(paths) * quarter // 4 - 1][1] for quarter in (1, 2, 3, 4)]
    return list(last.values())


@dataclass
class _Seen:
    """One layer's call: `group` tells the stages apart, `maps` those of images from those of vectors."""

    path: str
    group: tuple[int, ...]
    maps: bool


def _from_a_pass(module: nn.Module, inputs: Tensor) -> list[str]:
    seen: list[_Seen] = []
    linears = 0
    answering = False  # from the classifier on, nothing is a feature

    def watch(path: str) -> Any:
        def after(layer: nn.Module, args: Any, output: Any) -> None:
            nonlocal linears
            if answering or not isinstance(output, Tensor) or output.dim() < 2:
                return
            linears += isinstance(layer, nn.Linear)
            if not isinstance(layer, _MUTE):
                maps = output.dim() > 2
                seen.append(_Seen(path, tuple(output.shape[2:]) if maps else (linears,), maps))

        return after

    def before_head(layer: nn.Module, args: Any) -> None:
        nonlocal answering
        answering = True

    hooks = [module.get_submodule(find_head(module)).register_forward_pre_hook(before_head)]
    hooks += [layer.register_forward_hook(watch(path)) for path, layer in _chain(module).items()]
    try:
        with torch.inference_mode():
            module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if any(one.maps for one in seen):
        seen = [one for one in seen if one.maps]
    # a sequence that spans several stages is the end of none
    groups = {one.path: {part.group for part in seen if f"{part.path}.".startswith(f"{one.path}.")} for one in seen}
    seen = [one for one in seen if len(groups[one.path]) == 1]
    following = [*[one.group for one in seen[1:]], None]
    return [one.path for one, group in zip(seen, following, strict=True) if one.group != group]


def _chain(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """The layers that run one after another: the children, and through `Sequential`s theirs."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            found |= _chain(child, f"{prefix}{name}.")
        found[f"{prefix}{name}"] = child
    return found
