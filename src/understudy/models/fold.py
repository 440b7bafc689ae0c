"""The inference form of a network: standardised weights baked in, BatchNorm folded into the layer before it."""

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
from understudy.models.stages import has_head

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Of so many times the tolerance, a difference may be what float32 rounds off in fifty layers; float64 tells.
_ROUNDING = 100


def fold(network: Network, *, tolerance: float = 1e-5) -> Network:
    """A copy in eval mode, without gradients, whose weights are computed once and for all.

    Convolutions that standardise their weights in each pass (timm's `StdConv2d`, `ScaledStdConv2d`, and those with
    TF's padding) become plain ones of the standardised weights. Then every BatchNorm that directly follows a layer is
    folded into it. Which layer feeds which norm, and nothing else, is seen by running the network once, not read from
    its code, so any module can be folded; a norm that reads an activation, or a sum, or shares its input with a
    shortcut, as in pre-activation nets, stays. The copy is kept only if its logits, and what its classifier reads
    (classifiers may be of zeros), agree with the original's to `tolerance` (relative to their largest), otherwise the
    unfolded copy is returned. All layers keep their paths, and a tapped layer is not folded, so every tap stays what
    it was.
    """
    signals = network.signals
    network.watch(())  # a copied hook would report to the network it was copied from
    original = copy.deepcopy(network).eval().requires_grad_(False)
    folded = copy.deepcopy(original)
    network.watch(signals)
    probe = _probe(network)
    with torch.no_grad():  # not inference mode, whose tensors exporters do not take
        for path, layer in list(folded.named_modules()):
            if type(layer).__module__ == "timm.layers.std_conv":
                _replace(folded, path, _baked(layer))
        for layer, norm in _pairs(folded, probe, signals):
            _fold_pair(folded, layer, norm)
        for path, layer in list(folded.named_modules()):
            if packable(layer):
                assert isinstance(layer, nn.Conv2d)
                _replace(folded, path, PackedConv2d.of(layer))
        distance = _distance(folded, original, probe)
        if tolerance < distance < tolerance * _ROUNDING:
            found, expected = (copy.deepcopy(net).cpu().double() for net in (folded, original))
            distance = _distance(found, expected, probe.cpu().double())
    return (folded if distance <= tolerance else original).watch(signals)


def _distance(folded: Network, original: Network, probe: Tensor) -> float:
    pairs = zip(_answers(folded, probe), _answers(original, probe), strict=True)
    return max(float((x - y).abs().max() / y.abs().max().clamp_min(1.0)) for x, y in pairs)


def _answers(network: Network, probe: Tensor) -> list[Tensor]:
    signals = network.watch(["embedding"] if has_head(network.module) else [])(probe)
    return [x for x in (signals.logits, signals.embedding) if x is not None]


def _probe(network: Network) -> Tensor:
    device = network.mean.device
    generator = torch.Generator().manual_seed(0)
    return torch.rand((2, *network.contract.source_shape), generator=generator).to(device)


class _Readers(TorchFunctionMode):
    """Counts how many operations read each tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor | tuple | list):  # neither x.dim() nor x.shape reads its values
            flat = [y for x in [*args, *(kwargs or {}).values()] for y in (x if isinstance(x, tuple | list) else [x])]
            self.count.update({id(x) for x in flat if isinstance(x, Tensor)})
        return result


def _pairs(network: Network, probe: Tensor, signals: frozenset[str]) -> list[tuple[nn.Module, nn.Module]]:
    """(layer, norm) for each norm that reads what a layer, used once, has written for nothing else, taps included."""
    wrote: dict[int, tuple[nn.Module, Tensor]] = {}
    calls: Counter[nn.Module] = Counter()
    tapped: set[int] = set()
    pairs: list[tuple[nn.Module, nn.Module, Tensor]] = []
    readers = _Readers()

    def after_layer(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        wrote[id(output)] = (module, output)  # kept, so that no later tensor gets the same id
        readers.count[id(output)] = 0  # an earlier one may have had it

    def before_norm(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(args[0]) in wrote:
            pairs.append((wrote[id(args[0])][0], module, args[0]))

    def after_tap(module: nn.Module, args: Any, output: Any) -> None:
        if id(output) in wrote:
            tapped.add(id(output))

    hooks = []
    inside: set[nn.Module] = set()  # norms with a tap on a part of theirs, which folding would remove
    for name, module in network.module.named_modules():
        if isinstance(module, _LAYERS):
            hooks.append(module.register_forward_hook(after_layer))
        elif isinstance(module, _NORMS) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(before_norm))
            if any(tap.startswith(f"{name}.") for tap in signals):
                inside.add(module)
        if name in signals:
            hooks.append(module.register_forward_hook(after_tap))
    with readers:
        network(probe)
    for hook in hooks:
        hook.remove()
    return [
        (layer, norm)
        for layer, norm, x in pairs
        if calls[layer] == calls[norm] == readers.count[id(x)] == 1 and id(x) not in tapped and norm not in inside
    ]


def _fold_pair(network: Network, layer: nn.Module, norm: nn.Module) -> None:
    assert isinstance(norm, _NORMS)
    assert isinstance(layer, _LAYERS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    layer.weight, layer.bias = fuse(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    # timm's BatchNormAct2d carries its activation and drop inside; they stay.
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    for name, module in network.named_modules():
        if module is norm:
            return _replace(network, name, nn.Sequential(*rest))


def _replace(network: Network, path: str, module: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)


def _baked(layer: Any) -> nn.Conv2d:
    """A plain convolution that does what one with standardised weights does, padding included."""
    from timm.layers.conv2d_same import Conv2dSame

    gain = (layer.gain * layer.scale).double().flatten() if hasattr(layer, "gain") else None
    rows = layer.weight.double().reshape(1, layer.out_channels, -1)
    weight = F.batch_norm(rows, None, None, gain, training=True, momentum=0.0, eps=layer.eps)
    # same_pad: so many zeros that the size divided by the stride, rounded up, comes out: more behind than before
    make: Any = Conv2dSame if getattr(layer, "same_pad", False) else nn.Conv2d
    plain: nn.Conv2d = make(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        layer.groups, bias=False, device="meta",  # no memory, and no random numbers drawn
    )  # fmt: skip
    plain.weight = nn.Parameter(weight.reshape_as(layer.weight).to(layer.weight), requires_grad=False)
    plain.bias = layer.bias
    return plain.eval()
