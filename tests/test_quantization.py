"""Quantization-aware training: what is rounded, and that the exported int8 file computes the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import understudy
from resumable import QUICK, stop_at, weights
from understudy.cli.app import main
from understudy.data import ArraySource, open_source
from understudy.errors import Interrupted, UnderstudyError
from understudy.models import (
    InputContract,
    Network,
    activation_ranges,
    as_float,
    build,
    calibrate,
    fold,
    load_network,
    quantize,
)
from understudy.models.quantization import round_activation, round_weight
from understudy.runs.run import Run

DIGITS = tuple("0123456789")


def rounded(x: Tensor, low: float, high: float) -> Tensor:
    """As ONNX defines QuantizeLinear and DequantizeLinear, value by value, in Python's numbers."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    found = [(min(max(round(value / scale) + zero, 0), 255) - zero) * scale for value in x.flatten().tolist()]
    return torch.tensor(found).view_as(x)


def rounded_rows(weight: Tensor) -> Tensor:
    rows = []
    for row in weight.flatten(1):
        scale = float(row.abs().max()) / 127
        rows.append(torch.tensor([round(value / scale) * scale for value in row.tolist()]))
    return torch.stack(rows).view_as(weight)


def network_of(spec: str = "cnn:4-8?depth=1", side: int = 8, channels: int = 1) -> Network:
    """An untrained network whose BatchNorms have statistics as if it were."""
    contract = InputContract((channels, side, side), (0.5,) * channels, (0.25,) * channels, DIGITS)
    network = build(spec, contract)
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for x, low, high in (
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.5, 2.0),
                (layer.bias, -0.2, 0.2),
            ):
                assert x is not None
                x.data.copy_(low + (high - low) * torch.rand(x.shape, generator=generator))
    return network.eval()


def images(count: int = 16, channels: int = 1, side: int = 8) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


# ---- what is computed


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, 3.0), (-3.0, -0.5), (-1e-3, 1e-3)])
def test_activations_are_rounded_as_onnx_defines_it(low: float, high: float) -> None:
    x = 4 * torch.randn(500, generator=torch.Generator().manual_seed(0)) * max(abs(low), abs(high))
    wanted = rounded(x, low, high)
    found = round_activation(x, torch.tensor([low, high]))
    step = (max(high, 0) - min(low, 0)) / 255
    off = (found - wanted).abs()
    assert off.max() < 1.01 * step  # where float32 divides to the other side of a half
    assert (off > 1e-3 * step).float().mean() < 0.01
    assert round_activation(torch.zeros(1), torch.tensor([low, high])) == 0  # as padding is exact
    assert len(found.unique()) <= 256


def test_weights_are_rounded_by_channel() -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1e-4, 1, 5, 0.1, 30]
    ).view(5, 1, 1, 1)
    assert torch.allclose(round_weight(weight), rounded_rows(weight), rtol=1e-5)
    assert torch.equal(round_weight(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_a_network_computes_the_plain_formula() -> None:
    network, x = network_of(), images()
    parts: list[Any] = list(network.module.children())
    conv, norm, _, pool, conv2, norm2, _, mean, flatten, head = parts

    def folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        return layer.weight * gain.view(-1, 1, 1, 1), norm.bias - norm.running_mean * gain

    ranges: dict[str, tuple[float, float]] = {}

    def forward(x: Tensor, seen: bool) -> Tensor:
        def act(name: str, x: Tensor) -> Tensor:
            if seen:
                ranges[name] = (float(x.min()), float(x.max()))
                return x
            return rounded(x, *ranges[name])

        x = act("in", x)
        for index, (layer, after) in enumerate(((conv, norm), (conv2, norm2))):
            weight, bias = folded(layer, after)
            x = nn.functional.conv2d(x, rounded_rows(weight), bias, padding=1).relu()
            x = act(f"out{index}", x)
            x = pool(x) if not index else x
        return nn.functional.linear(act("head", flatten(mean(x))), rounded_rows(head.weight), head.bias)

    with torch.no_grad():
        forward((x - 0.5) / 0.25, True)
        wanted = forward((x - 0.5) / 0.25, False)
        calibrate(quantize(network), [x])
        found = network(x).logits
        plain = as_float(network)(x).logits
    assert (found - wanted).abs().max() < 0.15 * (plain - wanted).abs().max()  # but for ties at a half
    assert (found - wanted).abs().median() < 1e-4
    assert {path: (one.input, one.output) for path, one in activation_ranges(network).items()} == {
        "0": (pytest.approx(ranges["in"], rel=1e-5), pytest.approx(ranges["out0"], rel=1e-5)),
        "4": (None, pytest.approx(ranges["out1"], rel=1e-5)),
        "9": (pytest.approx(ranges["head"], rel=1e-5), None),
    }


@pytest.mark.parametrize("spec", ["cnn:4-8", "cifar:mobilenetv2", "cifar:shufflenetv2", "timm:mobilenetv3_small_050"])
def test_nothing_but_numbers_changes(spec: str) -> None:
    network, x = network_of(spec, 32, 3), images(4, 3, 32)
    paths, names = [*dict(network.named_modules())], [*network.state_dict()]
    parameters = {name: x.clone() for name, x in network.named_parameters()}
    with torch.no_grad():
        before = network(x).logits
        calibrate(quantize(network), [x])
        after = network(x).logits
    assert [*dict(network.named_modules())] == paths
    assert [name for name in network.state_dict() if not name.endswith("_range")] == names
    assert all(torch.equal(x, parameters[name]) for name, x in network.named_parameters())
    assert 0 < (after - before).norm() < 0.2 * before.norm()
    with torch.no_grad():
        assert torch.equal(as_float(network)(x).logits, before)
        for same in (copy.deepcopy(network), fold(network), quantize(network)):
            assert torch.equal(same(x).logits, after)


def test_every_parameter_of_a_layer_has_a_gradient_and_statistics_stay() -> None:
    network, x = network_of("cifar:mobilenetv2", 32, 3), images(8, 3, 32)
    calibrate(quantize(network), [x])
    before = {name: x.clone() for name, x in network.named_buffers()}
    network.train()
    network(x * 2).logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    after = dict(network.named_buffers())
    moved = {name.rpartition(".")[2] for name, old in before.items() if not torch.equal(old, after[name])}
    assert moved == {"input_range", "output_range"}
    first = next(name for name in before if name.endswith("input_range"))
    seen = torch.stack(torch.aminmax((x * 2 - 0.5) / 0.25))
    assert torch.allclose(after[first], 0.99 * before[first] + 0.01 * seen)


@pytest.mark.parametrize("inplace", [False, True])
def test_what_an_activation_changes_is_rounded_again(inplace: bool) -> None:
    """Also where the activation works in place, so that the next layer reads the tensor that the first one output."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.act, self.relu, self.head = nn.Hardswish(inplace), nn.ReLU(inplace), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.second(self.act(self.first(x)))
            y = y.add_(x) if inplace else y + x
            return self.head(self.relu(y))

    network = Network(Residual(), InputContract((4,), (0.0,) * 4, (1.0,) * 4, ("cat", "dog")))
    calibrate(quantize(network), [torch.randn(8, 4)])
    found = {path: (one.input is not None, one.output is not None) for path, one in activation_ranges(network).items()}
    assert found == {"first": (True, True), "second": (True, True), "head": (True, False)}


def test_a_quantized_network_is_saved_and_loaded(tmp_path: Path) -> None:
    network, x = network_of(), images()
    calibrate(quantize(network), [x])
    network.save(tmp_path / "net.safetensors")
    again = load_network(tmp_path / "net.safetensors").eval()
    assert again.int8
    with torch.no_grad():
        assert torch.equal(again(x).logits, network(x).logits)
    assert activation_ranges(again) == activation_ranges(network)


def test_nothing_to_quantize_is_said() -> None:
    network = Network(nn.Flatten(), InputContract((2,), (0.0,) * 2, (1.0,) * 2, ("cat", "dog")))
    with pytest.raises(UnderstudyError, match=r"has no convolution or linear layer to quantize; leave out --qat"):
        quantize(network)


# ---- runs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, and the same trained further with rounding: on labels, and on answers of a teacher."""
    home = tmp_path_factory.mktemp("home")
    understudy.train("digits", "cnn:8-16", run=home / "first", epochs=4, lr=0.01, **QUICK)
    understudy.train("digits", home / "first", run=home / "qat", epochs=2, lr=1e-3, qat=True, **QUICK)
    return home


def test_the_int8_file_computes_what_the_network_does(home: Path) -> None:
    run = Run(home / "qat")
    network = run.network("model-0").eval()
    assert network.int8
    done = understudy.export(run.path, format=("onnx", "int8", "torch"))
    test = open_source("digits").test
    assert isinstance(test, ArraySource)
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(done.path / "model-int8.onnx", providers=["CPUExecutionProvider"])
    pixels = test.inputs.permute(0, 2, 3, 1).contiguous().numpy()
    found = torch.from_numpy(session.run(["logits"], {"input": pixels})[0])
    with torch.no_grad():
        wanted = network(test.inputs.float() / 255).logits
        plain = as_float(network)(test.inputs.float() / 255).logits
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() > 0.995
    assert (found - wanted).norm() < 0.1 * (plain - wanted).norm(), "nearer than a network without rounding"
    by_name = {one.format: one for one in done.files}
    assert by_name["int8"].accuracy == pytest.approx(run.facts.rows[0].seeds[0].accuracy, abs=0.003)
    assert by_name["onnx"].agreement == by_name["torch"].agreement == 1


def test_scales_of_the_file_are_the_trained_ones(home: Path) -> None:
    onnx = pytest.importorskip("onnx")
    done = understudy.export(home / "qat", format="int8", preprocessing="external", out=home / "scales")
    model = onnx.load(done.path / "model-int8.onnx")
    values = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    scales = [float(values[node.input[1]]) for node in nodes]
    for path, one in activation_ranges(Run(home / "qat").network("model-0")).items():
        for ends in (one.input, one.output):
            if ends is not None:
                step = (max(ends[1], 0) - min(ends[0], 0)) / 255
                assert any(np.isclose(step, scale, rtol=1e-6) for scale in scales), path


@pytest.mark.parametrize("verb", ["train", "distill"])
def test_stopped_and_resumed_ends_with_the_same_bytes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    options: dict[str, Any] = {"epochs": 2, "lr": 1e-3, "ema": 0.9, "qat": True, **QUICK}

    def go(at: Path) -> None:
        if verb == "train":
            understudy.train("digits", home / "first", run=at, **options)
        else:
            understudy.distill("digits", home / "first", home / "first", run=at, **options)

    go(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(Interrupted):
            go(tmp_path / "stopped")
    understudy.resume(tmp_path / "stopped")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_training_goes_on_from_a_quantized_network(home: Path, tmp_path: Path) -> None:
    run = understudy.train("digits", home / "qat", run=tmp_path / "more", epochs=1, lr=1e-5, **QUICK)
    assert run.network("model-0").int8


def test_random_weights_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "digits", "--model", "cnn:4", "--qat", "--run", str(tmp_path / "run")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "cnn:4 has no trained weights to go on from with --qat; name a run folder or weights file" in said


def test_all_bytes_of_a_file_are_unsigned(home: Path) -> None:
    """Products of unsigned and signed ones overflow on processors without VNNI."""
    onnx = pytest.importorskip("onnx")
    done = understudy.export(home / "first", format=("int8",))
    types = {one.data_type for one in onnx.load(done.path / "model-int8.onnx").graph.initializer}
    assert onnx.TensorProto.UINT8 in types
    assert onnx.TensorProto.INT8 not in types
