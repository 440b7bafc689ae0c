"""The CIFAR networks: parameter counts, shapes, stages, taps and folding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network, build, fold, load_network
from understudy.models.cifar import NETS

NAMES = ("a", "b", "c", "d", "e")

# parameters for 100 classes, as published
PARAMETERS = {
    "resnet8": 83_892, "resnet14": 181_108, "resnet20": 278_324, "resnet32": 472_756, "resnet44": 667_188,
    "resnet56": 861_620, "resnet110": 1_736_564, "resnet8x4": 1_233_540, "resnet32x4": 7_433_860,
    "resnet50": 23_705_252, "wrn_16_1": 180_916, "wrn_16_2": 703_284, "wrn_40_1": 569_780, "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028, "vgg11": 9_277_284, "vgg13": 9_462_180, "vgg16": 14_774_436, "vgg19": 20_086_692,
    "mobilenetv2": 812_836, "shufflenetv1": 949_258, "shufflenetv2": 1_355_528,
}  # fmt: skip

# (C, side) at the end of each stage for 32 pixels, and the embedding's width
STAGES = {
    "resnet8": ([(16, 32), (32, 16), (64, 8)], 64),
    "resnet8x4": ([(64, 32), (128, 16), (256, 8)], 256),
    "resnet50": ([(256, 32), (512, 16), (1024, 8), (2048, 4)], 2048),
    "wrn_16_1": ([(16, 32), (32, 16), (64, 8)], 64),
    "wrn_40_2": ([(32, 32), (64, 16), (128, 8)], 128),
    "vgg8": ([(128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "mobilenetv2": ([(12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "shufflenetv1": ([(240, 16), (480, 8), (960, 4)], 960),
    "shufflenetv2": ([(116, 16), (232, 8), (464, 4)], 1024),
}
LIGHT = ["resnet8", "resnet8x4", "wrn_16_1", "wrn_16_2", "vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2"]


def contract(side: int = 32, channels: int = 3) -> InputContract:
    return InputContract((channels, side, side), (0.5,) * channels, (0.25,) * channels, NAMES)


def images(rows: int = 2, side: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(rows, channels, side, side, generator=torch.Generator().manual_seed(0))


def lively(network: Network) -> Network:
    """Give each BatchNorm random statistics and scales."""
    generator = torch.Generator().manual_seed(5)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for x, low, high in (
                (layer.running_mean, -0.3, 0.3), (layer.running_var, 0.5, 1.5),
                (layer.weight.data, 0.5, 1.5), (layer.bias.data, -0.3, 0.3),
            ):  # fmt: skip
                assert x is not None
                x.copy_(torch.rand(x.shape, generator=generator) * (high - low) + low)
    return network


def zoo(name: str, side: int = 32) -> Network:
    return lively(build(f"cifar:{name}", contract(side))).eval()


# --- sizes and shapes -----------------------------------------------------------------------------------


def test_the_zoo_is_whole() -> None:
    assert NETS.keys() == PARAMETERS.keys()
    assert STAGES.keys() <= NETS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        net = NETS[name](3, 100)
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 100)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", STAGES)
def test_shapes_of_the_stages(name: str) -> None:
    network = build(f"cifar:{name}", contract())
    shapes = network.shapes()
    maps, width = STAGES[name]
    assert (shapes.classes, shapes.embedding) == (5, width)
    assert dict(shapes.features) == {f"layer{i}": (c, side, side) for i, (c, side) in enumerate(maps, 1)}
    assert list(shapes.features) == [f"layer{i}" for i in range(1, len(maps) + 1)]


@pytest.mark.parametrize("name", LIGHT)
def test_other_sizes_and_channels(name: str) -> None:
    for side, channels in ((64, 3), (8, 1), (28, 2)):
        network = build(f"cifar:{name}", contract(side, channels)).eval()
        with torch.inference_mode():
            assert network(images(1, side, channels)).logits.shape == (1, 5)


def test_vgg_ends_at_four_pixels_for_32_and_64() -> None:
    for side in (32, 64):
        assert build("cifar:vgg8", contract(side)).shapes(["layer4"]).features["layer4"] == (512, 4, 4)


@pytest.mark.parametrize(
    ("spec", "message"), [("wrn_40_3", "'wrn_40_[12]'"), ("vgg9", "'vgg1?[89]'"), ("vgg8?x=1", "x")]
)
def test_misspelt_names(spec: str, message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        build(f"cifar:{spec}", contract())
    with pytest.raises(UnderstudyError, match="vectors of 7"):
        build("cifar:vgg8", InputContract((7,), (0.0,), (1.0,), NAMES))


def test_initial_weights() -> None:
    """Kaiming normal with fan_out, and a small head where the published network has one."""
    net = NETS["vgg8"](3, 100)
    conv = net.get_submodule("layer3.1.0")
    assert isinstance(conv, nn.Conv2d)
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)
    assert float(net.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert not net.fc.bias.any()
    assert not NETS["wrn_16_1"](3, 100).fc.bias.any()


def test_a_saved_net_is_loaded_again(tmp_path: Path) -> None:
    network = zoo("shufflenetv2")
    network.save(tmp_path / "w.safetensors")
    again = load_network(tmp_path / "w.safetensors").eval()
    assert torch.equal(again(images()).logits, network(images()).logits)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "mobilenetv2", "shufflenetv1", "shufflenetv2"])
def test_every_parameter_learns(name: str) -> None:
    network = build(f"cifar:{name}", contract()).train()
    network(images()).logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# --- taps and stages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["cifar:resnet8", "cifar:wrn_16_1", "cifar:vgg8", "cnn:4-8", "torchvision:resnet18"])
@pytest.mark.parametrize("folded", [False, True])
def test_a_tap_is_what_the_layer_put_out(spec: str, folded: bool) -> None:
    """Later in-place operations do not change a tapped output."""
    network = lively(build(spec, contract())).eval()
    if folded:
        network = fold(network)
    seen: dict[str, Tensor] = {}
    paths = {path for path, module in network.module.named_modules() if path}

    def keep(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, args, output: seen.update({path: output.clone()})

    for path in paths:
        network.module.get_submodule(path).register_forward_hook(keep(path))
    with torch.inference_mode():
        signals = network.watch(paths)(images())
    assert signals.features.keys() == seen.keys() == paths
    assert all(torch.equal(signals.features[path], x) for path, x in seen.items())


def test_taps_of_a_training_step_get_gradients() -> None:
    network = build("cifar:resnet8", contract()).train().watch(["layer1", "layer2.0.body"])
    signals = network(images())
    sum(x.square().mean() for x in signals.features.values()).backward()  # type: ignore[union-attr]
    assert network.module.get_submodule("stem.0").weight.grad.any()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(
    ("spec", "stages"),
    [
        ("mlp:20-10?dropout=0.5,input_dropout=0.2&batchnorm=true", ["4", "8"]),
        ("mlp:20-10", ["2", "4"]),
        ("cnn:4-8-6?depth=2", ["5", "12", "19"]),
        ("timm:resnet10t", ["layer1", "layer2", "layer3", "layer4"]),
        ("timm:efficientnet_lite0", ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"]),
        ("timm:mobilenetv3_small_050", ["blocks.0", "blocks.1", "blocks.3", "blocks.5"]),
        ("timm:resnet50", ["layer1", "layer2", "layer3", "layer4"]),
        ("timm:convnext_atto", ["stages.0", "stages.1", "stages.2", "stages.3"]),
        ("timm:mobilenetv2_050", [f"blocks.{i}" for i in (0, 1, 2, 4, 6)]),
        ("torchvision:convnext_tiny", [f"features.{i}" for i in (1, 3, 5, 7)]),
        ("torchvision:mobilenet_v2", [f"features.{i}" for i in (1, 3, 6, 13, 18)]),
        ("torchvision:regnet_y_400mf", ["stem", *(f"trunk_output.block{i}" for i in (1, 2, 3, 4))]),
        ("torchvision:resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("torchvision:squeezenet1_1", ["features.4", "features.7", "features.12"]),
        ("torchvision:mobilenet_v3_small", [f"features.{i}" for i in (0, 1, 3, 8, 12)]),
    ],
)
def test_stages_of_other_families(spec: str, stages: list[str]) -> None:
    shapes = build(spec, contract()).shapes()
    assert list(shapes.features) == stages
    if not spec.startswith("mlp"):
        sides = [shape[-1] for shape in shapes.features.values()]
        assert sides == sorted(set(sides), reverse=True)


def test_stages_of_a_transformer_and_of_a_module_made_by_hand() -> None:
    shapes = build("timm:vit_tiny_patch16_224?img_size=32,depth=8", contract()).shapes()
    assert list(shapes.features) == ["blocks.1", "blocks.3", "blocks.5", "blocks.7"]
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU())
    module = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    assert dict(Network(module, contract()).shapes().features) == {"0.1": (4, 15, 15), "0.3": (6, 7, 7)}


def test_measuring_shapes_leaves_no_trace() -> None:
    network = build("cifar:wrn_16_1", contract()).train().watch(["layer2"])
    network.module.get_submodule("layer1").eval()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    shapes = network.shapes(["tail", "layer3", "stem"])
    assert dict(shapes.features) == {"stem": (16, 32, 32), "layer3": (64, 8, 8), "tail": (64, 8, 8)}
    assert all(torch.equal(before[name], x) for name, x in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert network.signals == {"layer2"}
    with pytest.raises(UnderstudyError, match="did you mean 'layer"):
        network.shapes(["layer9"])
    assert network.signals == {"layer2"}
    assert [m.training for m in network.modules()] == modes
    assert list(network(images()).features) == ["layer2"]


# --- folding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIGHT)
def test_fold(name: str) -> None:
    network = zoo(name)
    network.watch(["embedding", *network.shapes().features])
    folded = fold(network)
    with torch.inference_mode():
        found, expected = folded(images(3)), network(images(3))
    norms = [path for path, m in folded.module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    if name.startswith("wrn"):  # norms after sums stay, those between two convolutions are folded
        assert 0 < len(norms) < sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        assert all("enter" in path or "tail" in path for path in norms)
        assert ("layer1.0.enter.0" in norms) == (name == "wrn_16_1"), "its stem also feeds the shortcut"
    else:
        assert not norms
    assert found.features.keys() == expected.features.keys()
    for a, b in [(found.logits, expected.logits), (found.embedding, expected.embedding)] + [
        (found.features[tap], expected.features[tap]) for tap in expected.features
    ]:
        assert a is not None
        assert b is not None
        assert float((a - b).abs().max() / b.abs().max().clamp_min(1.0)) < 1e-4
    paths = [path for path, _ in network.module.named_modules()]
    assert [path for path, _ in folded.module.named_modules()] == paths


@pytest.mark.parametrize(
    "tap", ["stem", "layer1.0.enter", "layer1.0.body.0.0", "layer1.0.body.0.1", "layer2.0.shortcut"]
)
def test_folding_changes_no_tap(tap: str) -> None:
    network = zoo("wrn_16_2").watch([tap])
    with torch.inference_mode():
        found, expected = fold(network)(images()).features[tap], network(images()).features[tap]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_container_that_ends_in_a_tapped_layer_is_not_folded() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 4, 3))
    module = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    module(images())
    network = lively(Network(module, contract())).eval().watch(["0"])
    with torch.inference_mode():
        torch.testing.assert_close(
            fold(network)(images()).features["0"], network(images()).features["0"], rtol=1e-5, atol=1e-5
        )
