"""Folding networks with Weight Standardization; for BatchNorm see test_models and test_cifar_zoo."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from understudy.evaluation.cost import flops
from understudy.models import InputContract, Network, build, fold, load_network
from understudy.models.packing import PackedConv2d

NAMES = ("a", "b", "c", "d", "e")
RGB = InputContract((3, 48, 48), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), NAMES)
STANDARDIZED = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)


def images(rows: int = 3) -> Tensor:
    return torch.rand(rows, *RGB.shape, generator=torch.Generator().manual_seed(7))


def lively(network: Network) -> Network:
    """Give norms, gains and the head random values, as if trained, and BatchNorm the statistics of the images."""
    draw = torch.Generator().manual_seed(5)
    for layer in network.modules():
        for name, x in layer.named_parameters(recurse=False):
            if name == "gain" or (name == "weight" and x.dim() == 1):
                x.data.copy_(torch.rand(x.shape, generator=draw) + 0.5)
            elif name in ("bias", "skipinit_gain"):
                x.data.copy_(torch.rand(x.shape, generator=draw) * 0.6 - 0.3)
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    head = next(iter(network.heads.values())).weight
    head.data.copy_(torch.randn(head.shape, generator=draw) * head.shape[1] ** -0.5)
    if any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()):
        with torch.no_grad():
            network.train()(images(8))
    return network.eval()


def distance(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1.0))


NETS = [
    *[f"bit:R26x0.25?norm={norm}" for norm in ("gn+ws", "gn", "bn", "bn+ws")],
    "bit:R14x0.5?root=cifar",
    "bit:R14x0.25?norm=bn+ws&root=cifar",
    "timm:resnetv2_50x1_bit",
    "timm:nf_regnet_b0",
]


@pytest.mark.parametrize("spec", NETS)
def test_the_same_answers_from_plain_layers(spec: str) -> None:
    network = lively(build(spec, RGB)).watch(["embedding"])
    before = {name: x.clone() for name, x in network.state_dict().items()}
    folded = fold(network)
    # in float64, as float32 rounding in fifty layers exceeds 1e-5
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-5)):
        x = images().to(dtype)
        with torch.inference_mode():
            found, expected = copy.deepcopy(folded).to(dtype)(x), copy.deepcopy(network).to(dtype)(x)
        assert expected.logits.std() > 1e-3
        assert distance(found.logits, expected.logits) < tolerance
        assert distance(found.embedding, expected.embedding) < tolerance
    assert not any(isinstance(layer, STANDARDIZED) for layer in folded.modules())
    assert all(torch.equal(before[name], x) for name, x in network.state_dict().items())
    if "norm=bn" in spec:  # the first norm of a pre-activation block follows a sum and stays
        norms = [path for path, layer in folded.module.named_modules() if isinstance(layer, nn.BatchNorm2d)]
        assert norms
        assert all(path == "norm" or path.endswith("norm1") for path in norms)


def test_a_head_of_zeros_hides_no_difference() -> None:
    network = build("bit:R14x0.25", RGB).eval().watch(["embedding"])
    folded = fold(network)
    assert not any(isinstance(layer, STANDARDIZED) for layer in folded.modules())
    assert distance(folded(images()).embedding, network(images()).embedding) < 1e-5

    class Drifting(nn.Conv2d):
        """Cannot be folded, as it does not multiply by its weights."""

        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) ** 2

    module = nn.Sequential(Drifting(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    nn.init.zeros_(module[-1].weight)  # type: ignore[arg-type]  # a Sequential's layers are of any kind
    other = Network(module, RGB).eval().watch(["embedding"])
    for norm in (module[1],):
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        norm.running_mean.fill_(0.5)
        norm.weight.data.fill_(1.7)
    assert distance(fold(other)(images()).embedding, other(images()).embedding) < 1e-5


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(STANDARDIZED), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.sampled_from((1, 2)),
    st.booleans(), st.integers(9, 14), st.integers(9, 14), st.sampled_from((1.0, 1e-3)),
)  # fmt: skip
def test_a_baked_convolution_pads_as_before(
    kind: type[nn.Conv2d], kernel: int, stride: int, dilation: int, groups: int, bias: bool, height: int, width: int,
    scale: float,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    conv = kind(4, 6, kernel, stride=stride, dilation=dilation, groups=groups, bias=bias)
    conv.weight.data.add_(0.3).mul_(scale)
    module = nn.Sequential(conv, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))
    contract = InputContract((4, height, width), (0.0,) * 4, (1.0,) * 4, NAMES)
    network = Network(module, contract).eval()
    folded = fold(network)
    x = torch.rand(2, 4, height, width)
    plain = folded.module.get_submodule("0")
    assert not isinstance(plain, STANDARDIZED)
    assert plain(x).shape == conv(x).shape
    assert distance(plain(x), conv(x)) < 1e-5


def test_folding_draws_no_random_numbers() -> None:
    network = build("bit:R14x0.25", RGB)
    before = torch.get_rng_state()
    fold(network)
    assert torch.equal(before, torch.get_rng_state())


def test_taps_keep_their_paths_and_values() -> None:
    network = lively(build("bit:R14x0.25?norm=bn+ws", RGB))
    taps = ["stem.conv", "stages.1", "stages.1.blocks.0.conv1", "stages.1.blocks.0.norm2"]
    network.watch(taps)
    with torch.inference_mode():
        found, expected = fold(network)(images()), network(images())
    assert found.features.keys() == set(taps)
    for tap in taps:
        torch.testing.assert_close(found.features[tap], expected.features[tap], rtol=1e-4, atol=1e-4)


def test_a_laid_out_net_is_folded_too(tmp_path) -> None:
    network = lively(build("bit:R14x0.25", RGB))
    network.save(tmp_path / "w.safetensors")
    again = load_network(tmp_path / "w.safetensors").eval()
    again.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this one
    assert distance(fold(again)(images()).logits, network(images()).logits) < 1e-5


# --- packed weights -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.sampled_from((1, 2, 16)),
    st.booleans(), st.booleans(), st.integers(7, 12), st.sampled_from((1, 2, 3)),
)  # fmt: skip
def test_a_packed_convolution_is_the_plain_one(
    kernel: int, stride: int, dilation: int, padding: int, groups: int, bias: bool, last: bool, size: int, rows: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(160, 112, kernel, stride, padding, dilation, groups, bias).requires_grad_(False)
    packed = PackedConv2d.from_conv(conv)
    for height in (size, size + 3):  # packed for the first size and used for others
        x = torch.rand(rows, 160, height, size)
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        with torch.inference_mode():
            assert distance(packed(x), conv(x)) < 1e-5
    assert (packed._packed is None) == (rows == 1 and conv.weight.numel() < 2**14)


def test_packed_weights_follow_the_weights() -> None:
    x = torch.rand(2, 8, 6, 6)
    packed = PackedConv2d.from_conv(nn.Conv2d(8, 4, 3).requires_grad_(False))
    with torch.no_grad():
        first = packed(x)
        packed.weight.mul_(2)
        packed.bias.mul_(2)  # type: ignore[union-attr]  # it has one
        torch.testing.assert_close(packed(x), 2 * first)
        other = copy.deepcopy(packed)
        assert other._packed is None
        torch.testing.assert_close(other(x), 2 * first)
        assert packed.state_dict().keys() == {"weight", "bias"}
        assert packed.double()(x.double()).dtype == torch.float64
        torch.testing.assert_close(packed(x.double()).float(), 2 * first)


def test_with_gradients_it_is_a_plain_convolution() -> None:
    packed = PackedConv2d.from_conv(nn.Conv2d(8, 4, 3).requires_grad_(False))
    x = torch.rand(2, 8, 6, 6, requires_grad=True)
    packed(x).sum().backward()
    assert x.grad is not None
    assert packed._packed is None


def test_a_folded_net_is_exported_as_plain_layers() -> None:
    folded = fold(lively(build("bit:R14x0.25", RGB))).module
    x = images(2)
    with torch.inference_mode():
        expected = folded(x)
    program = torch.export.export(folded, (x,))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        assert distance(program.module()(x), expected) < 1e-5


def test_a_folded_net_costs_the_same_operations() -> None:
    network = build("bit:R14x0.25", RGB)
    assert flops(fold(network)) == flops(network) > 0
