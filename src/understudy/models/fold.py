"""The inference form of a network: standardized weights baked in, BatchNorm folded into the preceding layer."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.overrides import TorchFunctionMode

from understudy.models.network import Network
from understudy.models.packing import PackedConv2d, packable

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Up to this many times the tolerance, a difference may be float32 rounding of deep networks; float64 decides.
_ROUNDING = 100


def fold(network: Network, *, tolerance: float = 1e-5) -> Network:
    """A copy for inference, in eval mode and without gradients, with fewer operations.

    Convolutions with Weight Standardization (timm's `StdConv2d`, `ScaledStdConv2d` and their variants with TF padding)
    become plain ones with the standardized weights. Every BatchNorm that directly follows a convolution or linear layer
    is folded into it. Which layer feeds which norm is traced in a forward pass, so any module can be folded; a norm
    whose input is an activation or a sum, or is also used elsewhere, as in pre-activation networks, is kept.

    The copy is checked on random inputs: if its logits or embeddings (the classifier may be all zeros) deviate by more
    than `tolerance`, relative to the largest value, an unfolded copy is returned. Layer paths are preserved and tapped
    layers are not folded, so every tap keeps its values. A quantized network is copied as it is, with what it rounds.

    >>> from understudy.models import InputContract, build
    >>> network = build("cnn:4-8?depth=1", InputContract((1, 8, 8), (0.5,), (0.5,), ("cat", "dog")))
    >>> any(isinstance(layer, nn.BatchNorm2d) for layer in fold(network).modules())
    False
    """
    signals = network.signals
    _ = network.head_paths  # found before it is copied: in inference mode the copies' weights have no gradients
    network.watch(())  # copied hooks would still write to the original network
    original = copy.deepcopy(network).eval().requires_grad_(False)
    folded = copy.deepcopy(original)
    network.watch(signals)
    if network.int8:
        return original.watch(signals)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((2, *network.contract.source_shape), generator=generator).to(network.mean.device)
    with torch.no_grad():  # not inference mode, whose tensors exporters reject
        for path, layer in list(folded.named_modules()):
            if type(layer).__module__ == "timm.layers.std_conv":
                _replace(folded, path, _bake_standardization(layer))
        for layer, norm in foldable_pairs(folded, inputs, signals):
            _fold_pair(folded, layer, norm)
        for path, layer in list(folded.named_modules()):
            if packable(layer):
                assert isinstance(layer, nn.Conv2d)
                _replace(folded, path, PackedConv2d.from_conv(layer))
        deviation = _deviation(folded, original, inputs)
        if tolerance < deviation < tolerance * _ROUNDING:
            folded64, original64 = (copy.deepcopy(net).cpu().double() for net in (folded, original))
            deviation = _deviation(folded64, original64, inputs.cpu().double())
    return (folded if deviation <= tolerance else original).watch(signals)


def _deviation(folded: Network, original: Network, inputs: Tensor) -> float:
    pairs = zip(_outputs(folded, inputs), _outputs(original, inputs), strict=True)
    return max(float((x - y).abs().max() / y.abs().max().clamp_min(1.0)) for x, y in pairs)


def _outputs(network: Network, inputs: Tensor) -> list[Tensor]:
    signals = network.watch(["embedding"] if network.head_paths else [])(inputs)
    return [x for x in (signals.logits, signals.embedding) if x is not None and x.numel()]


class _ReadCounter(TorchFunctionMode):
    """Counts how many operations read each tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor | tuple | list):  # x.dim() and x.shape do not read any values
            flat = [y for x in [*args, *(kwargs or {}).values()] for y in (x if isinstance(x, tuple | list) else [x])]
            self.count.update({id(x) for x in flat if isinstance(x, Tensor)})
        return result


def foldable_pairs(network: Network, inputs: Tensor, signals: frozenset[str]) -> list[tuple[nn.Module, nn.Module]]:
    """(layer, norm) where the norm is the only reader, taps included, of a layer that runs once."""
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}
    calls: Counter[nn.Module] = Counter()
    tapped: set[int] = set()
    pairs: list[tuple[nn.Module, nn.Module, Tensor]] = []
    reads = _ReadCounter()

    def after_layer(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        outputs[id(output)] = (module, output)  # kept alive, so that its id is not reused
        reads.count[id(output)] = 0  # the id may have been another tensor's before

    def before_norm(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(args[0]) in outputs:
            pairs.append((outputs[id(args[0])][0], module, args[0]))

    def after_tap(module: nn.Module, args: Any, output: Any) -> None:
        if id(output) in outputs:
            tapped.add(id(output))

    hooks = []
    tapped_inside: set[nn.Module] = set()  # norms with a tapped submodule, which folding would remove
    for name, module in network.module.named_modules():
        if isinstance(module, _LAYERS):
            hooks.append(module.register_forward_hook(after_layer))
        elif isinstance(module, _NORMS) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(before_norm))
            if any(tap.startswith(f"{name}.") for tap in signals):
                tapped_inside.add(module)
        if name in signals:
            hooks.append(module.register_forward_hook(after_tap))
    with reads:
        network(inputs)
    for hook in hooks:
        hook.remove()
    return [
        (layer, norm)
        for layer, norm, x in pairs
        if calls[layer] == calls[norm] == reads.count[id(x)] == 1 and id(x) not in tapped and norm not in tapped_inside
    ]


def _fold_pair(network: Network, layer: nn.Module, norm: nn.Module) -> None:
    assert isinstance(norm, _NORMS)
    assert isinstance(layer, _LAYERS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    statistics = norm.running_mean, norm.running_var, norm.eps
    layer.weight, layer.bias = fuse(layer.weight, layer.bias, *statistics, norm.weight, norm.bias)
    # keep the dropout and activation inside timm's BatchNormAct2d
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    for name, module in network.named_modules():
        if module is norm:
            return _replace(network, name, nn.Sequential(*rest))


def _replace(network: Network, path: str, module: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)


def _bake_standardization(layer: Any) -> nn.Conv2d:
    """A plain convolution equivalent to one with Weight Standardization, padding included."""
    from timm.layers.conv2d_same import Conv2dSame

    gain = (layer.gain * layer.scale).double().flatten() if hasattr(layer, "gain") else None
    rows = layer.weight.double().reshape(1, layer.out_channels, -1)
    weight = F.batch_norm(rows, None, None, gain, training=True, momentum=0.0, eps=layer.eps)
    # same_pad: TF's "SAME" padding, asymmetric where the total is odd
    conv: Any = Conv2dSame if getattr(layer, "same_pad", False) else nn.Conv2d
    plain: nn.Conv2d = conv(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        layer.groups, bias=False, device="meta",  # allocates nothing and draws no random numbers
    )  # fmt: skip
    plain.weight = nn.Parameter(weight.reshape_as(layer.weight).to(layer.weight), requires_grad=False)
    plain.bias = layer.bias
    return plain.eval()
