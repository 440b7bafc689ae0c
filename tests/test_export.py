"""Exported files: contents, outputs, verification and errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import understudy
from understudy.cli.app import main
from understudy.data import ArraySource, Source, Splits, open_source
from understudy.errors import UnderstudyError
from understudy.exporters import FORMATS, ModelCardInfo, export_network, interface_of, model_card, predict_script
from understudy.exporters.onnx import SCRIPT
from understudy.exporters.verify import Outputs, verify_float, verify_int8
from understudy.models import Network, build
from understudy.pipeline.modality import contract_of
from understudy.runs.run import Run

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("cached_operators")

ALL = ("onnx", "torch", "int8")


@pytest.fixture(scope="module")
def digits() -> Splits:
    return open_source("digits")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small CNN teacher, and an MLP student trained alone and distilled from it."""
    folder = tmp_path_factory.mktemp("runs")
    common = {"precision": "32", "lr": 0.01}
    understudy.train("digits", "cnn:8-16", run=folder / "teacher", epochs=4, **common)
    return understudy.distill(
        "digits",
        folder / "teacher",
        "mlp:32x1",
        run=folder / "demo",
        epochs=8,
        seeds=2,
        class_bias=["3=+0.5"],
        **common,
    )


@pytest.fixture(scope="module")
def exported(run: Run) -> understudy.verbs.export.Export:  # type: ignore[name-defined]
    return understudy.export(run.path, format=ALL, license="apache-2.0")


def load(path: Path) -> Callable[[np.ndarray], Tensor]:
    opened = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(opened.run(["logits"], {"input": x})[0])


def inputs_of(source: Source | None) -> Tensor:
    assert isinstance(source, ArraySource)
    return source.inputs


def source_of(x: Tensor, targets: Tensor | None = None, **rest: Any) -> ArraySource:
    classes = () if targets is None else tuple(f"c{i}" for i in range(int(targets.max()) + 1))
    return ArraySource("some", classes, torch.arange(len(x)), targets, tuple(x.shape[1:]), inputs=x, **rest)


def images(n: int = 40, channels: int = 3, side: int = 16) -> ArraySource:
    generator = torch.Generator().manual_seed(0)
    return source_of(torch.randint(256, (n, channels, side, side), generator=generator).byte(), torch.arange(n) % 3)


# ---- contents


def test_files_of_a_run(run: Run, exported: Any, digits: Splits) -> None:
    assert exported.path == run.path / "export"
    assert sorted(file.name for file in exported.path.iterdir()) == [
        "README.md", "export.json", "model-int8.onnx", "model.onnx", "model.pt2", "predict.py",
    ]  # fmt: skip
    network = run.network("distilled-0").eval()
    x = inputs_of(digits.test)
    with torch.inference_mode():
        wanted = network(x.float() / 255).logits
    assert digits.test is not None
    assert digits.test.targets is not None
    accuracy = (wanted.argmax(1) == digits.test.targets).double().mean().item()
    assert accuracy > 0.85
    for one in exported.files:
        assert one.bytes == one.file.stat().st_size
        assert one.original.accuracy == pytest.approx(accuracy)
        assert one.original.bytes == run.models["distilled-0"].stat().st_size
        assert 0 < one.latency_ms <= one.latency_p90_ms
        assert 0 < one.original.latency_ms <= one.original.latency_p90_ms
        if one.format == "int8":
            assert one.accuracy > accuracy - 0.02
            assert one.agreement > 0.95
            assert 1e-3 < one.worst_difference < 0.2 * wanted.abs().max()
        else:
            assert (one.accuracy, one.agreement) == (pytest.approx(accuracy), 1.0)
            assert one.worst_difference < 1e-4
    # the file takes uint8 pixels and any batch size
    predict = load(exported.path / "model.onnx")
    rows = x.permute(0, 2, 3, 1).contiguous().numpy()
    for count in (1, 3, 32):
        assert torch.allclose(predict(rows[:count]), wanted[:count], atol=1e-4)
    program = torch.export.load(exported.path / "model.pt2").module()
    assert torch.allclose(program(torch.from_numpy(rows[:5])), wanted[:5], atol=1e-4)


def test_metadata_is_stored_in_the_file(run: Run, exported: Any) -> None:
    network = run.network("distilled-0")
    extra: dict[str, Any] = dict.fromkeys(("classes", "mean", "std", "size", "input"), "")
    torch.export.load(exported.path / "model.pt2", extra_files=extra)
    for file in ("model.onnx", "model-int8.onnx"):
        model = onnx.load(exported.path / file)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert {key: metadata[key] for key in extra} == extra
        assert json.loads(metadata["classes"]) == list("0123456789")
        assert json.loads(metadata["mean"]) == pytest.approx(network.contract.mean)
        assert json.loads(metadata["std"]) == pytest.approx(network.contract.std)
        assert json.loads(metadata["size"]) == [8, 8]
        assert json.loads(metadata["input"]) == {"shape": ["N", 8, 8, 1], "layout": "NHWC", "dtype": "uint8"}
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        assert batch.dim_param
        assert not batch.dim_value
    quantized = [
        x.data_type for x in onnx.load(exported.path / "model-int8.onnx").graph.initializer if len(x.dims) == 2
    ]
    assert quantized
    assert set(quantized) == {onnx.TensorProto.UINT8}


def test_files_contain_no_local_paths(exported: Any) -> None:
    here = str(Path(understudy.__file__).parent).encode()
    for one in exported.files:
        with zipfile.ZipFile(one.file) if one.format == "torch" else nullcontext() as packed:
            parts = [packed.read(name) for name in packed.namelist()] if packed else [one.file.read_bytes()]
        assert not any(here in part for part in parts), one.file


def test_external_preprocessing_takes_normalized_inputs(run: Run, digits: Splits, tmp_path: Path) -> None:
    network = run.network("alone-1").eval()
    done = understudy.export(
        run.path, network="alone-1", format=("onnx", "torch"), preprocessing="external", out=tmp_path
    )
    assert done.name == "demo-alone-1"
    x = inputs_of(digits.test)[:7].float() / 255
    scaled = (x - network.contract.mean[0]) / network.contract.std[0]
    with torch.inference_mode():
        wanted = network(x).logits
    assert torch.allclose(load(tmp_path / "model.onnx")(scaled.numpy()), wanted, atol=1e-4)
    assert torch.allclose(torch.export.load(tmp_path / "model.pt2").module()(scaled), wanted, atol=1e-4)


def test_export_replaces_an_earlier_one(run: Run, tmp_path: Path) -> None:
    understudy.export(run.path, format="torch", out=tmp_path)
    assert not (tmp_path / "predict.py").exists()
    (tmp_path / "notes.txt").write_text("mine")
    understudy.export(run.path, format="onnx", out=tmp_path)
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["README.md", "export.json", "model.onnx", "notes.txt", "predict.py"]


@pytest.mark.parametrize(("modality", "interpolation"), [("", "bicubic"), ("chrominance", "bilinear")])
def test_embedded_preprocessing_matches_the_network(modality: str, interpolation: Any, tmp_path: Path) -> None:
    source = images()
    contract = replace(contract_of(source, modality), interpolation=interpolation)
    contract = replace(contract, shape=(contract.shape[0], 9, 12))
    network = build("cnn:4-6", contract)
    (one,) = export_network(network, source, None, ("onnx",), tmp_path)
    assert one.agreement == 1
    assert one.worst_difference < 1e-4
    if modality:
        with pytest.raises(UnderstudyError, match=f"reads {modality}, .* pass --preprocessing embedded"):
            export_network(network, source, None, ("onnx",), tmp_path / "b", preprocessing="external")
        assert not (tmp_path / "b").exists()


def test_file_takes_the_modality_of_the_network(tmp_path: Path) -> None:
    depth = replace(source_of(torch.rand(40, 1, 16, 16)), modality="depth")
    source = replace(images(), pairs={"depth": depth})
    network = build("cnn:4-6", contract_of(source, "depth")).eval()
    (one,) = export_network(network, source, None, ("onnx",), tmp_path)
    with torch.inference_mode():
        wanted = network(depth.inputs).logits
    assert torch.allclose(load(one.file)(depth.inputs.numpy()), wanted, atol=1e-4)
    assert interface_of(network, source, "embedded").image_mode is None


def test_vectors(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator) * torch.tensor([1, 5, 0.1, 1, 1, 1]) + 4
    source = source_of(x, (x[:, 0] > 4).long())
    network = build("mlp:16x1", contract_of(source)).eval()
    found = export_network(network, source, source, ALL, tmp_path, tolerance=20)
    assert [one.format for one in found] == list(ALL)
    np.save(tmp_path / "rows.npy", x[:9].numpy())
    with torch.inference_mode():
        wanted = network(x[:9]).logits.softmax(1)
    for preprocessing in ("embedded", "external"):
        if preprocessing == "external":
            export_network(network, source, None, ("onnx",), tmp_path, preprocessing="external")
        (tmp_path / "predict.py").write_text(
            predict_script(interface_of(network, source, preprocessing), "model.onnx", SCRIPT)
        )
        rows = run_script(tmp_path / "predict.py", tmp_path / "rows.npy")
        assert [row[1] for row in rows] == [f"c{i}" for i in wanted.argmax(1).tolist()]
        assert [float(row[2]) for row in rows] == pytest.approx(wanted.amax(1).tolist(), abs=2e-4)


# ---- architectures


def bit_like(channels: int, classes: int) -> nn.Module:
    """A small pre-activation ResNet with GroupNorm and Weight Standardization, like BiT."""
    from timm.layers.norm_act import GroupNormAct
    from timm.layers.std_conv import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2(
        [1, 1], (16, 32), classes, channels, stem_chs=8, stem_type="same",
        norm_layer=partial(GroupNormAct, num_groups=4), conv_layer=partial(StdConv2d, eps=1e-8),
    )  # fmt: skip


def trained(network: Network, source: Source, steps: int) -> Network:
    """Train for a few steps, so that predictions have the margins of a trained network."""
    network.train()
    solver = torch.optim.Adam(network.parameters(), 0.01)
    x, y = inputs_of(source).float() / 255, source.targets
    for step in range(steps):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(x)
        solver.zero_grad()
        assert y is not None
        nn.functional.cross_entropy(network(x[rows]).logits, y[rows]).backward()
        solver.step()
    return network.eval()


def test_group_norm_and_weight_standardization(digits: Splits, tmp_path: Path) -> None:
    assert digits.test is not None
    torch.manual_seed(0)
    network = trained(build(bit_like(1, 10), contract_of(digits.train)), digits.train, 60)
    exact, small = export_network(
        network, digits.test, digits.train, ("onnx", "int8"), tmp_path, preprocessing="external", tolerance=4
    )
    assert exact.original.accuracy is not None
    assert exact.original.accuracy > 0.5
    assert exact.agreement == 1
    assert small.agreement > 0.9


def test_channel_shuffle(tmp_path: Path) -> None:
    source = images(40, 3, 16)
    network = build("cifar:shufflenetv2", contract_of(source))
    for depth in (1, 2, 3):
        stage = network.module.get_submodule(f"layer{depth}")
        assert isinstance(stage, nn.Sequential)
        del stage[2:]  # units like the second
    trained(network, source, 1)
    (one,) = export_network(network, source, None, ("onnx",), tmp_path, preprocessing="external")
    assert one.agreement == 1
    assert one.bytes < 1.1 * one.original.bytes


# ---- verification


@pytest.mark.parametrize("before", [False, True])
def test_a_wrong_file_is_an_error_and_is_discarded(
    before: bool, run: Run, exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    if before:
        shutil.copytree(exported.path, folder)
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], to_files=partial(tampered, FORMATS["onnx"].to_files)))
    with pytest.raises(
        UnderstudyError, match=r"model\.onnx does not match .* \d+ of 359 samples differ by more than .*, up to"
    ):
        understudy.export(run.path, format=("torch", "onnx"), out=folder)
    assert contents(folder) == (contents(exported.path) if before else {})
    assert folder.exists() == before


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}


def tampered(to_files: Callable[[Any], Mapping[str, bytes]], job: Any) -> dict[str, bytes]:
    """Change one weight of the last layer by a tenth of the largest."""
    ((name, data),) = to_files(job).items()
    model = onnx.load_from_string(data)
    last = [x for x in model.graph.initializer if len(x.dims) == 2][-1]
    values = onnx.numpy_helper.to_array(last).copy()
    values[0, 0] += 0.1 * np.abs(values).max()
    last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
    return {name: model.SerializeToString()}


def test_verify_float() -> None:
    wanted = torch.tensor([[10.0, 0.0, 0.0], [5.0, 4.9995, 0.0], [5.0, 4.995, 0.0]])

    def check(logits: Tensor) -> None:
        verify_float(Outputs(wanted, {"onnx": logits}, None), "onnx", "model.onnx")

    check(wanted + 0.009)
    check(wanted + torch.tensor([[0, 0, 0], [-0.001, 0.001, 0], [0, 0, 0]]))  # a tie, broken the other way
    with pytest.raises(UnderstudyError, match=r"logits of 3 of 3 samples differ by more than 0\.01"):
        check(wanted + 0.011)
    with pytest.raises(UnderstudyError, match="another class for 1 of 3"):
        check(wanted + torch.tensor([[0, 0, 0], [0, 0, 0], [-0.005, 0.005, 0]]))
    with pytest.raises(UnderstudyError, match="logits of 1 of 3"):
        check(wanted.clone().index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(torch.nan)))
    with pytest.raises(UnderstudyError, match=r"logits of shape \(3, 2\), not \(3, 3\)"):
        check(wanted[:, :2])


def test_verify_int8() -> None:
    wanted = torch.eye(4).repeat(25, 1)
    targets = wanted.argmax(1)
    predicted = wanted.clone()
    predicted[:3] = predicted[:3].roll(1, 1)

    def check(tolerance: float, labels: Tensor | None, logits: Tensor = predicted) -> None:
        verify_int8(Outputs(wanted, {"int8": logits}, labels), "int8", "model-int8.onnx", tolerance)

    check(3.01, targets)
    check(0, predicted.argmax(1))  # better than the network
    with pytest.raises(
        UnderstudyError, match=r"accuracy is 97.00%, compared to 100.00% for the network, a drop of 3.00 points"
    ):
        check(2.9, targets)
    with pytest.raises(UnderstudyError, match=r"agreement with the network is 97.00%"):
        check(2.9, None)
    with pytest.raises(UnderstudyError, match="is not accurate enough"):
        check(100, targets, predicted * torch.nan)


# ---- predict.py

_GUARD = """
import runpy, sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names | {"onnxruntime", "numpy", "PIL"} and not top.startswith("_"):
            raise ModuleNotFoundError(f"{name} must not be imported", name=name)
sys.meta_path.insert(0, Guard())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"torch", "understudy", "onnx"} & set(sys.modules)
"""


def run_script(script: Path, *args: Path) -> list[list[str]]:
    """The output of a script in a process that can import only onnxruntime, numpy and Pillow."""
    done = subprocess.run([sys.executable, "-c", _GUARD, script, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def photos(folder: Path) -> list[Path]:
    """Images of various sizes: one transparent, one with an EXIF rotation, one gray, one with 16 bits."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    names = ("wide.png", "tall.jpg", "big.png", "glass.png", "gray.png", "turned.jpg", "deep.png")
    files = [folder / name for name in names]
    Image.fromarray(rng.integers(0, 65536, (40, 40)).astype(np.uint16)).save(files[6])
    for file, size in zip(files[:6], [(20, 33), (41, 17), (400, 380), (30, 30), (25, 25), (50, 20)], strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(file)
    glass = Image.open(files[3]).convert("RGBA")
    glass.putalpha(Image.fromarray(np.where(np.arange(900).reshape(30, 30) < 450, 0, 255).astype(np.uint8)))
    glass.save(files[3])
    Image.open(files[4]).convert("L").save(files[4])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(files[5]).save(files[5], exif=exif)
    return files


@pytest.mark.parametrize(("channels", "preprocessing", "whole"), [
    (1, "embedded", False), (3, "external", False), (3, "embedded", True),
])  # fmt: skip
def test_predict_script_matches_predict(channels: int, preprocessing: str, whole: bool, tmp_path: Path) -> None:
    """`whole`: transferred networks take the full image, not its central square."""
    source = images(60, channels)
    network = build("cnn:6-8", contract_of(source), seed=channels)
    (network.set_input_size(16) if whole else network).save(tmp_path / "net.safetensors")
    assert source.targets is not None
    done = understudy.export(
        tmp_path / "net.safetensors", data=Splits(source, source), preprocessing=preprocessing, out=tmp_path / "out"
    )
    files = photos(tmp_path / "photos")
    wanted = understudy.predict(tmp_path / "net.safetensors", files)
    found = run_script(done.path / "predict.py", *files)
    assert [row[0] for row in found] == [one.path for one in wanted]
    assert [row[1] for row in found] == [one.classes[0] for one in wanted]
    assert [float(row[2]) for row in found] == pytest.approx([one.probabilities[0] for one in wanted], abs=2e-4)
    Image.new("F", (20, 20)).save(tmp_path / "depth.tif")
    refused = subprocess.run([sys.executable, done.path / "predict.py", tmp_path / "depth.tif"], capture_output=True)
    (error,) = (one.error for one in understudy.predict(tmp_path / "net.safetensors", [tmp_path / "depth.tif"]))
    assert (refused.returncode, refused.stderr.decode()) == (1, f"{tmp_path / 'depth.tif'}: {error}\n")
    code = (done.path / "predict.py").read_text()
    assert len(re.findall(r"^(?!import|from|$)", code[code.index("session") :], re.MULTILINE)) < 25


def test_predict_script_says_which_file_is_damaged(tmp_path: Path) -> None:
    source = images(60, 3)
    build("cnn:6", contract_of(source)).save(tmp_path / "net.safetensors")
    done = understudy.export(tmp_path / "net.safetensors", data=Splits(source, source), out=tmp_path / "out")
    whole = tmp_path / "whole.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    Image.fromarray(noise).save(whole)
    cut, text, missing = (tmp_path / name for name in ("cut.jpg", "text.jpg", "missing.jpg"))
    cut.write_bytes(whole.read_bytes()[:1500])
    text.write_text("no image")
    for file in (cut, text, missing):
        command = [sys.executable, done.path / "predict.py", whole, file]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode == 1
        assert refused.stdout.startswith(f"{whole}\t"), "the file before it was classified"
        (line,) = refused.stderr.splitlines()
        assert line.startswith(f"{file}: not an image that can be read (")


def test_custom_code_is_imported_only_if_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n\ndef tiny(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder, photo = str(tmp_path / "run"), tmp_path / "photo.png"
    Image.new("L", (8, 8)).save(photo)
    train = ["train", "digits", "--model", "own_nets:tiny", "--epochs", "1", "--precision", "32", "--run", folder]
    assert main(train) == 0
    for words in (["evaluate", folder, "digits"], ["predict", folder, str(photo)], ["export", folder]):
        assert main(words) == 2
        assert "--trust-code" in " ".join(capsys.readouterr().err.split())
        assert main([*words, "--trust-code"]) == 0
    assert (tmp_path / "run" / "export" / "model.onnx").exists()


# ---- model card


def test_model_card(run: Run, exported: Any) -> None:
    from huggingface_hub import ModelCard

    text = (exported.path / "README.md").read_text()
    card = ModelCard(text)
    about = card.data.to_dict()
    assert about["license"] == "apache-2.0"
    assert about["library_name"] == "onnx"
    assert about["pipeline_tag"] == "image-classification"
    assert about["datasets"] == ["digits"]
    assert {"onnx", "int8", "knowledge-distillation"} <= set(about["tags"])
    (entry,) = about["model-index"]
    metrics = [metric["value"] for result in entry["results"] for metric in result["metrics"]]
    assert metrics == [pytest.approx(one.accuracy, abs=1e-6) for one in exported.files]
    facts = run.facts
    for row in facts.of("teacher", "alone", "distilled"):
        assert f"{100 * (row.mean('accuracy') or 0):.2f}%" in card.text
        assert f"`{row.model}`" in card.text
    for one in exported.files:
        assert f"| `{one.file.name}` |" in card.text
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in card.text
    held = json.loads((exported.path / "export.json").read_text())
    assert [one["file"] for one in held["files"]] == ["model.onnx", "model.pt2", "model-int8.onnx"]
    assert held["files"][2]["accuracy"] == exported.files[2].accuracy
    assert held["original"]["latency_ms"] == exported.files[0].original.latency_ms
    assert (held["calibrated_on"], held["tolerance"], held["data"]["examples"]) == (256, 2.0, 359)


def test_names_are_escaped_in_the_model_card(exported: Any, digits: Splits, run: Run) -> None:
    assert digits.test is not None
    form = interface_of(run.network("distilled-0"), digits.test, "embedded")
    form = replace(form, contract=replace(form.contract, classes=("<b>|`", "a\n# b", "*c*")))
    text = model_card(ModelCardInfo("net", "mlp:32x1", "my_photos", None, 9, 0, None, None), form, exported.files, {})
    assert r"Classes, in order: \<b\>\|\`, a\\n\# b, \*c\*." in text
    assert r"on my\_photos" in text
    assert "license" not in text
    assert "datasets:" not in text


# ---- command line and errors


def test_command_line(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "device"
    line = ["export", str(run.path), "--format", "onnx", "int8", "--calibrate", "20", "--out", str(out)]
    line += ["--preprocessing", "external"]
    assert main(line) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert [row.split()[0] for row in lines[:4]] == ["file", "in", "model.onnx", "model-int8.onnx"]
    assert "%" in lines[2]
    assert f"model card: {out / 'README.md'}" in printed.out
    assert json.loads((out / "export.json").read_text())["calibrated_on"] == 20


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_errors_are_one_sentence(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(run.models["alone-0"])
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.yaml").write_text("kind: train\ndata: digits\nmodel: mlp:8x1\n")
    (tmp_path / "README.md").write_text("mine")
    demo = str(run.path)
    for argv, message in (
        ((demo, "--format", "onxx"), "unknown format 'onxx'; did you mean 'onnx'?"),
        ((demo, "--network", "distiled-1"), "no network 'distiled-1'; did you mean 'distilled-1'?"),
        ((demo, "--preprocessing", "outside"), 'Invalid value "outside" for --preprocessing'),
        ((demo, "--format", "int8", "--calibrate", "0"), "calibrate must be a whole number from 1"),
        ((demo, "--out", str(tmp_path)), "has a README.md that is not an export"),
        ((str(unfinished),), "holds no trained model; finish it with: understudy resume"),
        ((str(tmp_path / "absent"),), "there is no run folder or weights file"),
        ((weights,), "does not name data to verify its files on; pass --data"),
        ((weights, "--data", "digits", "--network", "alone-0"), "is a single network; leave out --network"),
        ((weights, "--data", "no-such-set"), "no-such-set"),
    ):
        assert message in fails(capsys, "export", *argv), argv


def test_unsuitable_data(run: Run, digits: Splits, tmp_path: Path) -> None:
    weights = run.models["alone-0"]
    with pytest.raises(UnderstudyError, match="has no test split to verify the files on"):
        understudy.export(weights, data=digits.train, out=tmp_path)
    with pytest.raises(UnderstudyError, match=r"alone-0 predicts 10 classes .* the data has 3"):
        understudy.export(weights, data=Splits(images(), images()), out=tmp_path)
    assert digits.test is not None
    with pytest.raises(UnderstudyError, match="int8 needs samples to calibrate on"):
        export_network(run.network("alone-0"), digits.test, None, ("int8",), tmp_path)
    assert not list(tmp_path.iterdir())


def test_untrained_heads(run: Run, tmp_path: Path) -> None:
    other = Run(tmp_path / "r")
    (tmp_path / "r" / "models").mkdir(parents=True)
    (tmp_path / "r" / "recipe.yaml").write_text("kind: train\ndata: digits\nmodel: mlp:32x1\n")
    (tmp_path / "r" / "models" / "model-0.safetensors").write_bytes(run.models["alone-0"].read_bytes())
    other.note(untrained_heads=["model-0"])
    with pytest.raises(UnderstudyError, match="head of model-0 was not trained"):
        understudy.export(tmp_path / "r")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package(package: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnderstudyError, match=rf"needs the package {package}, .* pip install 'understudy\[export\]'"):
        understudy.export(run.path, out=tmp_path)


@torch.library.custom_op("understudy_tests::odd", mutates_args=())
def odd(x: Tensor) -> Tensor:
    return x.clone()


@odd.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(768, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(odd(x).flatten(1))


class Branching(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)) if x.sum() > 0 else self.head(-x.flatten(1))


def test_unsupported_modules(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = images()
    network = Network(Odd(), contract_of(source))
    with pytest.raises(
        UnderstudyError, match=r"\(no ONNX operator for understudy_tests\.odd\.default\); .* --format torch"
    ):
        export_network(network, source, None, ("onnx",), tmp_path, preprocessing="external")
    (kept,) = export_network(network, source, None, ("torch",), tmp_path)
    assert kept.worst_difference == 0
    with pytest.raises(UnderstudyError, match=r"cannot be exported: torch\.export could not trace it") as caught:
        export_network(Network(Branching(), contract_of(source)), source, None, ("onnx",), tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_full_disk(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on file sizes stands in for it: the write fails halfway."""
    resource = pytest.importorskip("resource")
    out, limits = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        error = fails(capsys, "export", str(run.path), "--format", "torch", "--out", str(out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.fullmatch(r"error: .*could not be written \(File too large\).*\n", error)
    assert not out.exists()
