"""Networks: names, weights, files, contracts, taps, dropout and folding."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network, build, fold, load_network, parse_spec, read_weights
from understudy.models.contract import convert_channels
from understudy.models.dropout import CounterDropout
from understudy.models.stages import channels_first
from understudy.randomness import mix
from understudy.signals import Batch

NAMES = ("a", "b", "c", "d", "e")
RGB = InputContract((3, 32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), NAMES)
GRAY = InputContract((1, 12, 12), (0.1,), (0.3,), NAMES)
VECTOR = InputContract((7,), (0.0,), (1.0,), NAMES)

SPECS = [
    ("mlp:20x2?dropout=0.5,input_dropout=0.2&batchnorm=true", GRAY),
    ("mlp:30-10", VECTOR),
    ("cnn:4-8?depth=1", GRAY),
    ("cnn:4-8?dropout=0.3", RGB),
    ("timm:resnet10t", RGB),
    ("torchvision:squeezenet1_1", RGB),
    ("torchvision:mobilenet_v3_small", RGB),
]


def images(contract: InputContract, rows: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(rows, *contract.shape, generator=torch.Generator().manual_seed(seed))


def lively(network: Network) -> Network:
    """Give each BatchNorm random statistics and scales."""
    generator = torch.Generator().manual_seed(5)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            for x, low, high in (
                (layer.running_mean, -0.3, 0.3), (layer.running_var, 0.5, 1.5),
                (layer.weight.data, 0.5, 1.5), (layer.bias.data, -0.3, 0.3),
            ):  # fmt: skip
                x.copy_(torch.rand(x.shape, generator=generator) * (high - low) + low)
    return network


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# --- names ----------------------------------------------------------------------------------------------


def test_parse_spec() -> None:
    spec = parse_spec("mlp:1200x2?dropout=0.5&batchnorm=true,name=x")
    assert (spec.family, spec.name) == ("mlp", "1200x2")
    assert spec.options == {"dropout": 0.5, "batchnorm": True, "name": "x"}


@pytest.mark.parametrize(("spec", "contract"), SPECS)
def test_every_family(spec: str, contract: InputContract) -> None:
    before = torch.get_rng_state()
    network = build(spec, contract, seed=3).eval()
    assert torch.equal(before, torch.get_rng_state()), "building must not move the caller's generator"
    assert network.spec == spec
    assert network(images(contract)).logits.shape == (3, 5)
    assert same(network, build(spec, contract, seed=3))
    assert not same(network, build(spec, contract, seed=4))


def test_layers_of_an_mlp() -> None:
    network = build("mlp:30-10?dropout=0.5", VECTOR)
    sizes = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(7, 30), (30, 10), (10, 5)]
    assert len(network.dropouts) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mlp", "FAMILY:NAME"),
        ("mpl:800x2", "did you mean 'mlp'"),
        ("tim:resnet18", "did you mean 'timm'"),
        ("torchvison:resnet18", "did you mean 'torchvision'"),
        ("timm:resnt18", "did you mean 'resne?t18'"),
        ("torchvision:mobilenet_v3_smal", "did you mean 'mobilenet_v3_small'"),
        ("mlp:800x", "mlp:800x2"),
        ("mlp:8?dropuot=0.5", "did you mean 'dropout'"),
        ("cnn:8?dept=1", "did you mean 'depth'"),
        ("mlp:8?dropout=1.5", "at least 0 and below 1"),
        ("torchvision:squeezenet1_1?nonsense=1", "nonsense"),
        ("mlp:8?dropout", "has no value"),
    ],
)
def test_unknown_things_name_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        build(spec, RGB)


@pytest.mark.parametrize("spec", ["cnn:8", "timm:resnet10t", "torchvision:squeezenet1_1"])
def test_nets_of_images_refuse_vectors(spec: str) -> None:
    with pytest.raises(UnderstudyError, match="vectors of 7"):
        build(spec, VECTOR)


def test_code_runs_only_when_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "somepkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(
        f"from pathlib import Path\nfrom torch import nn\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "def tiny(num_classes, width=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(144, width), nn.Linear(width, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnderstudyError, match="is code"):
        build("somepkg.nets:tiny", GRAY)
    assert not (tmp_path / "ran").exists()
    network = build("somepkg.nets:tiny?width=6", GRAY, trust_code=True)
    assert (tmp_path / "ran").exists()
    assert [p.shape[0] for p in network.parameters()] == [6, 6, 5, 5]
    with pytest.raises(UnderstudyError, match="could not be imported"):
        build("somepkg.nets:tny", GRAY, trust_code=True)
    network.save(tmp_path / "w.safetensors")
    with pytest.raises(UnderstudyError, match="is code"):
        load_network(tmp_path / "w.safetensors")
    assert same(load_network(tmp_path / "w.safetensors", trust_code=True), network)


# --- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("spec", "contract"), [SPECS[0], SPECS[3], SPECS[6]])
def test_round_trip(spec: str, contract: InputContract, biased: bool, tmp_path: Path) -> None:
    network = lively(build(spec, contract, seed=8)).eval()
    plain = network(images(contract)).logits
    bias = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    if biased:
        network.set_class_bias(bias)
        torch.testing.assert_close(network(images(contract)).logits, plain + bias)
    network.save(tmp_path / "w.safetensors")
    again = load_network(tmp_path / "w.safetensors").eval()
    assert same(network, again)
    assert (again.contract, again.spec) == (network.contract, spec)
    assert torch.equal(again(images(contract)).logits, network(images(contract)).logits)


def test_class_biases_add_up() -> None:
    network = build("mlp:4", VECTOR)
    network.set_class_bias(torch.ones(5))
    network.set_class_bias(torch.arange(5.0))
    assert network.class_bias is not None
    assert network.class_bias.tolist() == [1, 2, 3, 4, 5]


class _Payload:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickled_code_is_never_run(writer: str, tmp_path: Path) -> None:
    bomb, mark = tmp_path / "w.pth", tmp_path / "mark"
    if writer == "pickle":
        bomb.write_bytes(pickle.dumps({"weight": _Payload(str(mark))}))
    else:
        torch.save({"weight": _Payload(str(mark))}, bomb)
    for attempt in (lambda: read_weights(bomb), lambda: build(f"torchvision:squeezenet1_1?weights={bomb}", RGB)):
        with pytest.raises(UnderstudyError, match="never run"):
            attempt()
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Payload(str(mark)))).close()
    assert mark.exists(), "the payload does what it says when it is unpickled"


def test_weights_of_others(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    module = squeezenet1_1(num_classes=5)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "w.pth")
    assert same(build(f"torchvision:squeezenet1_1?weights={tmp_path / 'w.pth'}", RGB).module, module)
    torch.save({"epoch": 3, "weight": torch.zeros(2)}, tmp_path / "odd.pth")
    with pytest.raises(UnderstudyError, match="more than tensors"):
        read_weights(tmp_path / "odd.pth")
    state = module.state_dict()
    state["odd.key"] = state.pop("classifier.1.bias")
    state["classifier.1.weight"] = torch.zeros(9, 512, 1, 1)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(UnderstudyError, match=r"wrong\.pth") as caught:
        build(f"torchvision:squeezenet1_1?weights={tmp_path / 'wrong.pth'}", RGB)
    for part in ("classifier.1.bias is missing", "odd.key is unexpected", "classifier.1.weight is (9, 512, 1, 1)"):
        assert part in str(caught.value)


def test_broken_weights_files(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="no weights file"):
        read_weights(tmp_path / "none.safetensors")
    build("mlp:4", VECTOR).save(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-7])
    with pytest.raises(UnderstudyError, match="not a complete safetensors"):
        read_weights(tmp_path / "w.safetensors")
    old = {"understudy": json.dumps({"spec": "mlp:4", "contract": {"shape": [7], "fit": "center"}})}
    save_file({"x": torch.zeros(1)}, tmp_path / "old.safetensors", old)
    with pytest.raises(UnderstudyError, match="another version"):
        load_network(tmp_path / "old.safetensors")
    Network(nn.Linear(7, 5), VECTOR).save(tmp_path / "hand.safetensors")
    with pytest.raises(UnderstudyError, match="made in Python"):
        load_network(tmp_path / "hand.safetensors")


# --- contracts ------------------------------------------------------------------------------------------


def test_gray_from_rgb_is_what_pil_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    found = convert_channels(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, 1)
    expected = np.asarray(Image.fromarray(pixels).convert("L")) / 255
    assert np.abs(found[0, 0].numpy() - expected).max() <= 1 / 255


def test_contract_conversions() -> None:
    gray = images(GRAY)
    to_rgb = Network(nn.Identity(), InputContract((3, 12, 12), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), NAMES))
    found = to_rgb.preprocess(gray)
    for channel, (mean, std) in enumerate(zip((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), strict=True)):
        torch.testing.assert_close(found[:, channel], (gray[:, 0] - mean) / std)
    plain = Network(nn.Identity(), InputContract((1, 6, 4), (0.0,), (1.0,), NAMES))
    assert plain.preprocess(torch.full((2, 3, 20, 20), 0.25)).sub(0.25).abs().max() < 1e-5
    assert plain.preprocess(gray).shape == (3, 1, 6, 4)
    ramp = torch.linspace(0, 1, 24).expand(1, 1, 24, 24)
    half = Network(nn.Identity(), InputContract((1, 12, 12), (0.0,), (1.0,), NAMES)).preprocess(ramp)
    inner = ((ramp[..., ::2, ::2] + ramp[..., 1::2, 1::2]) / 2)[..., 2:-2]
    torch.testing.assert_close(half[..., 2:-2], inner, atol=1e-5, rtol=0)
    vector = Network(nn.Identity(), InputContract((7,), (2.0,), (4.0,), NAMES))
    torch.testing.assert_close(vector.preprocess(torch.ones(2, 7)), torch.full((2, 7), -0.25))


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(UnderstudyError, match="expects vectors of 7"):
        build("mlp:4", VECTOR)(torch.zeros(2, 8))
    with pytest.raises(UnderstudyError, match="expects images"):
        build("mlp:4", GRAY)(torch.zeros(2, 144))
    with pytest.raises(UnderstudyError, match="2 channels"):
        build("mlp:4", GRAY)(torch.zeros(2, 2, 12, 12))


# --- taps -----------------------------------------------------------------------------------------------


def test_taps() -> None:
    network = build("cnn:4-8?depth=1", GRAY).eval().watch(["logits", "2", "embedding"])
    x = images(GRAY)
    signals = network(x)
    assert list(signals.features) == ["2"]
    module = network.module
    assert isinstance(module, nn.Sequential)
    torch.testing.assert_close(signals.features["2"], module[:3](network.preprocess(x)))
    network.watch([])
    assert network(x).embedding is None
    assert not network(x).features
    with pytest.raises(UnderstudyError, match="layer '77'"):
        network.watch(["77"])
    with pytest.raises(UnderstudyError, match="did you mean 'layer1"):
        build("timm:resnet10t", RGB).watch(["layr1"])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 48)])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("channels", [3, 16, 64])
def test_channels_are_found_by_the_proportions_of_the_image(
    height: int, width: int, stride: int, channels: int
) -> None:
    sides = (height // stride, width // stride)
    x = torch.rand(2, channels, *sides)
    last, image = x.movedim(1, 3), (3, height, width)
    torch.testing.assert_close(channels_first(x, image), x)
    torch.testing.assert_close(channels_first(last, image, declared_last=True), x)
    if channels * sides[1] != sides[0] ** 2:  # else C : H = H : W, which only the network's declaration resolves
        torch.testing.assert_close(channels_first(x, image, declared_last=True), x)
    if channels * sides[0] != sides[1] ** 2:
        torch.testing.assert_close(channels_first(last, image), x)
    tokens = torch.rand(2, 9, channels)
    assert channels_first(tokens, (3, height, width)) is tokens


def test_swin_is_tapped_with_its_channels_in_front() -> None:
    small = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "num_classes": len(NAMES)}
    module: Any = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, **small)
    network = Network(module, replace(RGB, shape=(3, 64, 64))).eval()
    sides = {"layers.0": (16, 16, 16), "layers.1": (32, 8, 8), "layers.2": (64, 4, 4), "layers.3": (128, 2, 2)}
    assert network.shapes().features == sides
    x = torch.rand(2, 3, 64, 64)
    found = network.watch(["layers.0"])(x).features["layers.0"]
    raw = module.layers[0](module.patch_embed(network.preprocess(x)))
    torch.testing.assert_close(found, raw.movedim(3, 1))


@pytest.mark.parametrize(("spec", "contract"), SPECS)
def test_the_embedding_is_what_the_classifier_reads(spec: str, contract: InputContract) -> None:
    network = build(spec, contract).eval().watch(["embedding"])
    signals = network(images(contract))
    assert signals.embedding is not None
    head = next(iter(network.heads.values()))
    if isinstance(head, nn.Linear):
        again = head(signals.embedding)
    else:  # squeezenet: a 1x1 convolution, then ReLU and global average pooling
        assert isinstance(head, nn.Conv2d)
        again = head(signals.embedding.view(3, head.in_channels, 1, -1)).relu().mean((2, 3))
    torch.testing.assert_close(again, signals.logits, rtol=1e-4, atol=1e-5)


# --- folding --------------------------------------------------------------------------------------------

FOLDED = [
    ("cnn:4-8", GRAY),
    ("mlp:20x2?batchnorm=true", GRAY),
    ("timm:resnet10t", RGB),
    ("timm:efficientnet_lite0", RGB),
    ("torchvision:mobilenet_v3_small", RGB),
    ("torchvision:resnet18", RGB),
]


@pytest.mark.parametrize(("spec", "contract"), FOLDED)
def test_fold(spec: str, contract: InputContract) -> None:
    network = lively(build(spec, contract)).watch(["embedding"]).train()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    folded = fold(network)
    assert network.training
    assert all(torch.equal(before[name], x) for name, x in network.state_dict().items())
    assert not folded.training
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    network.eval()
    ours, theirs = folded(images(contract, 4, 9)), network(images(contract, 4, 9))
    scale = theirs.logits.abs().max().clamp_min(1.0)
    assert float((ours.logits - theirs.logits).detach().abs().max() / scale) < 1e-5
    assert ours.embedding is not None
    torch.testing.assert_close(ours.embedding, theirs.embedding, rtol=1e-3, atol=1e-4)
    assert folded.signals == network.signals == {"embedding"}


@pytest.mark.parametrize("tap", ["conv_stem", "bn1", "blocks.0", "bn1.act"])
def test_folding_changes_no_tap(tap: str) -> None:
    network = lively(build("timm:efficientnet_lite0", RGB)).eval().watch([tap])
    x = images(RGB)
    expected, found = network(x), fold(network)(x)
    assert found.features.keys() == {tap}
    torch.testing.assert_close(found.features[tap], expected.features[tap], rtol=1e-3, atol=1e-4)


def test_a_norm_that_cannot_be_folded_stays() -> None:
    module = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.BatchNorm1d(144), nn.Linear(144, 5))
    network = lively(Network(module, GRAY)).eval()
    torch.testing.assert_close(fold(network)(images(GRAY)).logits, network(images(GRAY)).logits)
    assert any(isinstance(m, nn.BatchNorm1d) for m in fold(network).modules())


# --- dropout --------------------------------------------------------------------------------------------


def dropped(p: float, rows: Tensor, x: Tensor) -> Tensor:
    layer = CounterDropout(p).train()
    layer.seeds = rows
    return layer(x)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_share_and_scale_of_dropout(p: float) -> None:
    out = dropped(p, mix(torch.arange(200)), torch.ones(200, 500))
    kept = out != 0
    assert float((~kept).float().mean()) == pytest.approx(p, abs=0.006)
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - p)), rtol=1e-4, atol=0)
    assert len(kept.unique(dim=0)) == 200


def test_all_or_nothing_dropped() -> None:
    x = torch.ones(3, 10, requires_grad=True)
    out = dropped(1.0, torch.arange(3), x)
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), x)[0].any()
    assert torch.equal(dropped(0.0, torch.arange(3), x), x)
    layer = CounterDropout(0.5).eval()
    layer.seeds = torch.arange(3)
    assert torch.equal(layer(x), x)


def test_dropout_passes_gradients_where_it_passed_values() -> None:
    x = images(GRAY, 4).add(0.1).requires_grad_(True)
    out = dropped(0.5, torch.arange(4), x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((out * weights).sum(), x)[0]
    torch.testing.assert_close(found, weights * (out != 0) * 2.0)
    torch.testing.assert_close(out, x * (out != 0) * 2.0)


def test_a_row_drops_the_same_units_in_any_batch() -> None:
    network = build("mlp:40x2?dropout=0.5,input_dropout=0.2", GRAY).train()
    x, view = images(GRAY, 6), torch.arange(50, 56)
    whole = Batch(torch.arange(6), view, x)
    together = network(whole).logits
    torch.testing.assert_close(network(whole).logits, together)
    for row in range(6):
        torch.testing.assert_close(network(whole[row : row + 1]).logits[0], together[row], rtol=1e-4, atol=1e-5)
    other = network(Batch(torch.arange(6), view + 100, x)).logits
    assert (other - together).abs().amax(1).min() > 1e-3
    network.dropout_seed = 1
    assert (network(whole).logits - together).abs().amax(1).min() > 1e-3
    masks = [dropped(0.5, layer.seeds, torch.ones(6, 40)) for layer in network.dropouts if layer.seeds is not None]
    assert not torch.equal(masks[1], masks[2])


def test_a_tensor_after_a_batch_gets_plain_dropout() -> None:
    network = build("mlp:40?dropout=0.5", VECTOR).train()
    network(Batch(torch.arange(4), torch.arange(4), torch.rand(4, 7)))
    x = torch.rand(6, 7)
    assert not torch.equal(network(x).logits, network(x).logits)


def test_dropout_inside_windows_of_an_image() -> None:
    rows = torch.arange(2)
    windows = dropped(0.5, rows, torch.ones(8, 5))  # four windows per image, folded into the batch
    torch.testing.assert_close(windows.view(2, 20), dropped(0.5, rows, torch.ones(2, 20)))


def test_plain_dropout_of_others_is_replaced() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Dropout(0.3)), nn.Linear(7, 5)), VECTOR)
    assert [layer.p for layer in network.dropouts] == [0.3]
    assert len([m for m in network.modules() if isinstance(m, CounterDropout)]) == 1


def test_a_layer_that_there_is_not_is_answered_with_those_there_are() -> None:
    contract = InputContract((3, 32, 32), (0.5,) * 3, (0.25,) * 3, ("a", "b"))
    with pytest.raises(UnderstudyError) as caught:
        build("timm:resnet18", contract).watch(["block1"])
    assert "has no layer 'block1'; there are conv1, bn1, act1" in str(caught.value)
    assert str(caught.value).endswith("and more inside them")
    with pytest.raises(UnderstudyError, match=r"did you mean 'layer3'\? there are conv1"):
        build("timm:resnet18", contract).watch(["layer33"])
