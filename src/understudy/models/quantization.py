"""Networks that compute as their int8 files will: in every pass, weights and activations are rounded to 8 bits."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from understudy.errors import UnderstudyError
from understudy.models.fold import foldable_pairs
from understudy.models.network import Network, eval_mode

LEVELS = 255
"""Steps of an activation's range: it is rounded to unsigned bytes, one scale and zero point for a tensor."""
_LARGEST = 127  # of a weight, as a signed byte; -128 is not used, so that zero is in the middle
_MOMENTUM = 0.01  # of the moving averages of activations' smallest and largest values
_SMALLEST = 1e-12  # scale, of a tensor of zeros
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_PRODUCTS = (F.conv1d, F.conv2d, F.conv3d, F.linear)
# of what is rounded, these output the same values
_MOVING = {"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "flatten", "reshape", "view", "permute"}
# ONNX Runtime computes these within the layer before, which then outputs what they do
_CLIPPING = {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_"}


@dataclass(frozen=True)
class Ranges:
    """The (smallest, largest) values of what a layer reads, and of what it outputs, after a ReLU that follows.

    None where another layer has the range: the one before for the input, the next one for the output; or where nothing
    but zeros was seen. Logits are not rounded.
    """

    input: tuple[float, float] | None
    output: tuple[float, float] | None


def quantize(network: Network) -> Network:
    """Have a network compute, in place, what its int8 file will; returns it.

    The weights of convolutions and linear layers, with the BatchNorm after them folded in, are rounded to signed bytes
    with one scale a channel, what they read and output to unsigned bytes, as `exporters.int8` does. Gradients pass
    as if nothing was rounded, except where values are clipped (the straight-through estimator). Ranges of activations
    are moving averages of what training batches showed, kept in buffers beside the weights; they are zero before
    `calibrate`. The running statistics of folded BatchNorms stay as they are, as is usual (Jacob et al. 2018,
    Krishnamoorthi 2018, section 3.3). No other layer changes, nor any weight, path or parameter.

    Raises:
        UnderstudyError: there is nothing to quantize.

    >>> from understudy.models import InputContract, build
    >>> network = build("cnn:4-8?depth=1", InputContract((1, 8, 8), (0.5,), (0.5,), ("cat", "dog")))
    >>> images = torch.rand(4, 1, 8, 8)
    >>> calibrate(quantize(network), [images])
    >>> [name for name in network.state_dict() if name.endswith("_range")][:2]
    ['module.0.input_range', 'module.0.output_range']
    """
    if network.int8:
        return network
    device = network.mean.device
    with eval_mode(network), torch.no_grad():
        inputs = torch.zeros(2, *network.contract.source_shape, device=device)
        places = list(_places(network, inputs))
    if not places:
        raise UnderstudyError(f"{network.name} has no convolution or linear layer to quantize; leave out --qat")
    for place in places:
        layer: Any = place.layer
        layer.__class__ = _quantized(type(layer))
        for name, rounded in (("input_range", place.rounds_input), ("output_range", place.rounds_output)):
            layer.register_buffer(name, torch.zeros(2, device=device) if rounded else None)
        layer.norms = () if place.norm is None else (place.norm,)  # a tuple, as it is no child of the layer
        layer.clip = place.clip
        if place.norm is not None:
            place.norm.__class__ = _folded(type(place.norm))
            place.norm.eval()
    network.int8, network.full_precision = True, True
    return network


def calibrate(network: Network, batches: Iterable[Any]) -> None:
    """Set the ranges of a quantized network to the mean of the smallest and largest values in some batches.

    Activations are not rounded meanwhile, and nothing else changes.

    Args:
        batches: whatever the network takes.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _Quantized)]
    for layer in layers:
        layer.seen = []
    try:
        with eval_mode(network), torch.no_grad():
            for batch in batches:
                network(batch)
        for layer in layers:
            for name in ("input_range", "output_range"):
                found = [x for seen, x in layer.seen or () if seen == name]
                if found:
                    getattr(layer, name).copy_(torch.stack(found).mean(0))
    finally:
        for layer in layers:
            layer.seen = None


def as_float(network: Network) -> Network:
    """A copy of a network that rounds nothing; of a network that does not, a copy too."""
    signals = network.signals
    plain = copy.deepcopy(network.watch(()))
    network.watch(signals)
    for layer in plain.modules():
        if isinstance(layer, _Quantized):
            del layer.input_range, layer.output_range, layer.norms, layer.clip
        if isinstance(layer, (_Quantized, _FoldedNorm)):
            changed: Any = layer
            changed.__class__ = layer.plain
    plain.int8 = False
    return plain.watch(signals)


def activation_ranges(network: Network) -> dict[str, Ranges]:
    """The ranges of the layers of a quantized network, by path in its module."""
    return {
        path: Ranges(_ends(layer.input_range), _ends(layer.output_range))
        for path, layer in network.module.named_modules()
        if isinstance(layer, _Quantized)
    }


def _ends(values: Tensor | None) -> tuple[float, float] | None:
    """The range, unless nothing but zeros was ever seen."""
    return None if values is None or not values.any() else (float(values[0]), float(values[1]))


def round_activation(x: Tensor, values: Tensor) -> Tensor:
    """Round to the 256 values of an unsigned byte, evenly over a range that is widened to hold zero.

    Args:
        values: (2,) the smallest and the largest; others are clipped.

    >>> round_activation(torch.tensor([-0.2, 0.11, 0.5004, 3.0]), torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.1098, 0.5020, 1.0000])
    """
    scale, zero = scale_and_zero(values)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, LEVELS)


def scale_and_zero(values: Tensor) -> tuple[Tensor, Tensor]:
    """The step between two of the 256 values that an activation is rounded to, and which of them is zero."""
    low, high = values.float().clamp_max(0)[0], values.float().clamp_min(0)[1]
    scale = ((high - low) / LEVELS).clamp_min(_SMALLEST)
    return scale, (-low / scale).round().clamp(0, LEVELS).int()


def round_weight(weight: Tensor) -> Tensor:
    """Round each output's weights to -127 ... 127 steps of their own, the largest of which is the largest weight.

    >>> round_weight(torch.tensor([[1.27, 0.004], [0.0, 0.0]]))
    tensor([[1.2700, 0.0000],
            [0.0000, 0.0000]])
    """
    scale = (weight.detach().flatten(1).abs().amax(1) / _LARGEST).clamp_min(_SMALLEST)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -_LARGEST, _LARGEST)


# ---- layers, whose classes are mixed in, so that paths, parameters and `isinstance` stay as they are


class _Quantized(nn.Module):
    """Mixed into a layer's class: rounds its weights and what it reads and outputs."""

    plain: type[nn.Module]
    input_range: Tensor | None
    output_range: Tensor | None
    norms: tuple[_BatchNorm, ...]
    clip: Callable[[Tensor], Tensor] | None
    seen: list[tuple[str, Tensor]] | None = None  # while the network is calibrated

    def forward(self, input: Tensor) -> Tensor:
        with _RoundedWeight(self):
            output = super().forward(self._rounded("input_range", input))
        return self._rounded("output_range", output)

    def _rounded(self, name: str, x: Tensor) -> Tensor:
        values = getattr(self, name)
        if values is None:
            return x
        if self.training or self.seen is not None:
            ends = torch.stack(torch.aminmax(x.detach())).to(values)
            if name == "output_range" and self.clip is not None:
                ends = self.clip(ends)  # so that rounding clips, and what follows changes nothing
            if self.seen is not None:
                self.seen.append((name, ends))
                return x
            values.lerp_(ends, _MOMENTUM)
        return round_activation(x, values)

    def weight_and_bias(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Those that the int8 file has: with the norm folded in, and rounded."""
        for norm in self.norms:
            mean, var = norm.running_mean, norm.running_var
            assert mean is not None
            assert var is not None
            gain = (var + norm.eps).rsqrt()
            if norm.weight is not None:
                gain = gain * norm.weight
            weight = weight * gain.view(-1, *[1] * (weight.dim() - 1))
            bias = (-mean if bias is None else bias - mean) * gain
            if norm.bias is not None:
                bias = bias + norm.bias
        return round_weight(weight), bias


class _FoldedNorm(_BatchNorm):
    """Mixed into the class of a norm that the layer before it applies: does what else it does, as an activation."""

    plain: type[nn.Module]

    def forward(self, input: Tensor) -> Tensor:
        with _NormApplied():
            return super().forward(input)

    def train(self, mode: bool = True) -> _FoldedNorm:
        return super().train(False)  # its statistics stay as they are


@cache
def _quantized(layer: type[nn.Module]) -> type[nn.Module]:
    return type(f"Quantized{layer.__name__}", (_Quantized, layer), {"plain": layer})


@cache
def _folded(norm: type[nn.Module]) -> type[nn.Module]:
    return type(f"Folded{norm.__name__}", (_FoldedNorm, norm), {"plain": norm})


class _RoundedWeight(TorchFunctionMode):
    """Rounds the weight that a layer computes with, however it comes by it, as by Weight Standardization."""

    def __init__(self, layer: _Quantized) -> None:
        super().__init__()
        self.layer = layer

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        x: Any
        weight: Any
        x, weight, bias, *rest = (*args, None)[:3] if len(args) < 3 else args
        weight, bias = self.layer.weight_and_bias(weight, kwargs.pop("bias", bias))
        return func(x, weight, bias, *rest, **kwargs)


class _NormApplied(TorchFunctionMode):
    """Has `F.batch_norm` return what it is given."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return args[0] if func is F.batch_norm else func(*args, **(kwargs or {}))


# ---- which tensors are rounded


@dataclass(frozen=True)
class _Place:
    layer: nn.Module
    norm: nn.Module | None  # that is folded into it
    rounds_input: bool
    rounds_output: bool
    clip: Callable[[Tensor], Tensor] | None  # the ReLU or the like that follows


class _Readers(TorchFunctionMode):
    """Which functions read each tensor, by its id, with the other arguments, and what they returned."""

    def __init__(self) -> None:
        super().__init__()
        self.of: defaultdict[int, list[tuple[Callable[[Any], Any], str, Any]]] = defaultdict(list)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor | tuple | list):  # x.dim() and x.shape do not read any values
            flat = [y for x in [*args, *(kwargs or {}).values()] for y in (x if isinstance(x, tuple | list) else [x])]
            for x in flat:
                if isinstance(x, Tensor):
                    again = partial(_again, func, args[1:], kwargs or {})
                    self.of[id(x)].append(
                        (again, func.__name__, result)
                    )  # which keeps it, so that its id is not reused
        return result

    def unchanged(self, x: Tensor) -> set[int]:
        """The ids of a tensor and of those that hold none but its values."""
        found = {id(x)}
        for _, name, result in self.of[id(x)]:
            if result is x and name not in _CLIPPING:  # another layer or a sum works in place from here on
                return found - {id(x)}
            if name in _MOVING and isinstance(result, Tensor) and id(result) not in found:
                found |= self.unchanged(result)
        return found


def _again(func: Callable[..., Any], rest: tuple[Any, ...], kwargs: dict[str, Any], x: Any) -> Any:
    return func(x, *rest, **kwargs)


def _places(network: Network, inputs: Tensor) -> Iterator[_Place]:
    """The layers of a network in the order in which they first run, each with what is to be rounded around it."""
    norms = dict(foldable_pairs(network, inputs, frozenset()))
    runs: list[tuple[nn.Module, Tensor, Tensor]] = []

    def after(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        runs.append((layer, args[0], output))

    layers = [layer for layer in network.module.modules() if isinstance(layer, _LAYERS)]
    hooks = [layer.register_forward_hook(after) for layer in layers]
    try:
        with _Readers() as readers:
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    rounded: set[int] = set()
    seen: set[nn.Module] = set()
    heads = set(network.heads.values()) if network.head_paths else set()
    read = {id(x) for _, x, _ in runs}
    y: Any
    for layer, x, y in runs:
        if layer in seen:
            continue
        seen.add(layer)
        if layer in norms:
            y = next(result for _, name, result in readers.of[id(y)] if name == "batch_norm")
        (again, name, result), *others = readers.of[id(y)] or [(None, "", None)]
        clip = again if name in _CLIPPING and (result is y or not others) else None
        y = y if clip is None else result
        rounds_output = layer not in heads and (clip is None or id(y) not in read)
        if rounds_output:
            rounded |= readers.unchanged(y)
        yield _Place(layer, norms.get(layer), id(x) not in rounded, rounds_output, clip)
