"""Exported files: what they hold and answer, how they are checked, and what mistakes leave behind."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
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
from understudy import api
from understudy.cli import main
from understudy.contracts import contract_of
from understudy.data import ArraySource, Source, Splits, open_source
from understudy.errors import UnderstudyError
from understudy.exports import FORMATS, About, export_network, form_of, model_card, predict_script
from understudy.exports.checking import Answers, check_float, check_int8
from understudy.models import Network, build
from understudy.runs import Run

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

ALL = ("onnx", "torch", "int8")


@pytest.fixture(scope="module")
def digits() -> Splits:
    return open_source("digits")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher's net of convolutions, and a student of it, alone and distilled."""
    folder = tmp_path_factory.mktemp("runs")
    common = {"precision": "32", "lr": 0.01}
    api.train("digits", "cnn:8-16", run=folder / "teacher", epochs=4, **common)
    return api.distill(
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
def exported(run: Run) -> understudy.exporting.Export:  # type: ignore[name-defined]
    return understudy.export(run.path, format=ALL, license="apache-2.0")


def session(path: Path) -> Callable[[np.ndarray], Tensor]:
    opened = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(opened.run(["logits"], {"input": x})[0])


def inputs_of(source: Source | None) -> Tensor:
    assert isinstance(source, ArraySource)
    return source.inputs


def source_of(x: Tensor, targets: Tensor | None = None, **rest: Any) -> ArraySource:
    classes = () if targets is None else tuple(f"c{i}" for i in range(int(targets.max()) + 1))
    return ArraySource("some", classes, torch.arange(len(x)), targets, tuple(x.shape[1:]), inputs=x, **rest)


def pictures(n: int = 40, channels: int = 3, side: int = 16) -> ArraySource:
    generator = torch.Generator().manual_seed(0)
    return source_of(torch.randint(256, (n, channels, side, side), generator=generator).byte(), torch.arange(n) % 3)


# ---- what a file holds


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
    right = (wanted.argmax(1) == digits.test.targets).double().mean().item()
    assert right > 0.85
    for one in exported.files:
        assert one.bytes == one.file.stat().st_size
        assert one.original.accuracy == pytest.approx(right)
        assert one.original.bytes == run.models["distilled-0"].stat().st_size
        assert 0 < one.latency_ms <= one.latency_p90_ms
        assert 0 < one.original.latency_ms <= one.original.latency_p90_ms
        if one.format == "int8":
            assert one.accuracy > right - 0.02
            assert one.agreement > 0.95
            assert 1e-3 < one.worst_difference < 0.2 * wanted.abs().max()
        else:
            assert (one.accuracy, one.agreement) == (pytest.approx(right), 1.0)
            assert one.worst_difference < 1e-4
    # the file takes the bytes of the pixels, any number of images at once
    said = session(exported.path / "model.onnx")
    rows = x.permute(0, 2, 3, 1).contiguous().numpy()
    for count in (1, 3, 32):
        assert torch.allclose(said(rows[:count]), wanted[:count], atol=1e-4)
    program = torch.export.load(exported.path / "model.pt2").module()
    assert torch.allclose(program(torch.from_numpy(rows[:5])), wanted[:5], atol=1e-4)


def test_classes_and_scale_travel_inside(run: Run, exported: Any) -> None:
    network = run.network("distilled-0")
    extra: dict[str, Any] = dict.fromkeys(("classes", "mean", "std", "size", "input"), "")
    torch.export.load(exported.path / "model.pt2", extra_files=extra)
    for file in ("model.onnx", "model-int8.onnx"):
        model = onnx.load(exported.path / file)
        held = {entry.key: entry.value for entry in model.metadata_props}
        assert {key: held[key] for key in extra} == extra
        assert json.loads(held["classes"]) == list("0123456789")
        assert json.loads(held["mean"]) == pytest.approx(network.contract.mean)
        assert json.loads(held["std"]) == pytest.approx(network.contract.std)
        assert json.loads(held["size"]) == [8, 8]
        assert json.loads(held["input"]) == {"shape": ["N", 8, 8, 1], "layout": "NHWC", "type": "uint8"}
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        assert batch.dim_param
        assert not batch.dim_value
    quantised = [
        x.data_type for x in onnx.load(exported.path / "model-int8.onnx").graph.initializer if len(x.dims) == 2
    ]
    assert quantised
    assert set(quantised) == {onnx.TensorProto.INT8}


def test_nothing_of_this_machine_is_inside(exported: Any) -> None:
    here = str(Path(understudy.__file__).parent).encode()
    for one in exported.files:
        with zipfile.ZipFile(one.file) if one.format == "torch" else nullcontext() as packed:
            parts = [packed.read(name) for name in packed.namelist()] if packed else [one.file.read_bytes()]
        assert not any(here in part for part in parts), one.file


def test_beside_takes_normalised_inputs(run: Run, digits: Splits, tmp_path: Path) -> None:
    network = run.network("alone-1").eval()
    done = understudy.export(
        run.path, network="alone-1", format=("onnx", "torch"), preprocessing="beside", out=tmp_path
    )
    assert done.name == "demo-alone-1"
    x = inputs_of(digits.test)[:7].float() / 255
    scaled = (x - network.contract.mean[0]) / network.contract.std[0]
    with torch.inference_mode():
        wanted = network(x).logits
    assert torch.allclose(session(tmp_path / "model.onnx")(scaled.numpy()), wanted, atol=1e-4)
    assert torch.allclose(torch.export.load(tmp_path / "model.pt2").module()(scaled), wanted, atol=1e-4)


def test_an_export_replaces_the_one_before(run: Run, tmp_path: Path) -> None:
    understudy.export(run.path, format="torch", out=tmp_path)
    assert not (tmp_path / "predict.py").exists()
    (tmp_path / "notes.txt").write_text("mine")
    understudy.export(run.path, format="onnx", out=tmp_path)
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["README.md", "export.json", "model.onnx", "notes.txt", "predict.py"]


@pytest.mark.parametrize(("modality", "interpolation"), [("", "bicubic"), ("chrominance", "bilinear")])
def test_the_file_sees_and_resizes_as_the_network_does(modality: str, interpolation: Any, tmp_path: Path) -> None:
    source = pictures()
    contract = replace(contract_of(source, modality), interpolation=interpolation)
    contract = replace(contract, shape=(contract.shape[0], 9, 12))
    network = build("cnn:4-6", contract)
    (one,) = export_network(network, source, None, ("onnx",), tmp_path)
    assert one.agreement == 1
    assert one.worst_difference < 1e-4
    if modality:
        with pytest.raises(UnderstudyError, match=f"sees {modality}, .* pass --preprocessing inside"):
            export_network(network, source, None, ("onnx",), tmp_path / "b", preprocessing="beside")
        assert not (tmp_path / "b").exists()


def test_one_modality_of_several_is_taken(tmp_path: Path) -> None:
    depth = replace(source_of(torch.rand(40, 1, 16, 16)), modality="depth")
    source = replace(pictures(), pairs={"depth": depth})
    network = build("cnn:4-6", contract_of(source, "depth")).eval()
    (one,) = export_network(network, source, None, ("onnx",), tmp_path)
    with torch.inference_mode():
        wanted = network(depth.inputs).logits
    assert torch.allclose(session(one.file)(depth.inputs.numpy()), wanted, atol=1e-4)
    assert form_of(network, source, "inside").image_mode is None


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
    for preprocessing in ("inside", "beside"):
        if preprocessing == "beside":
            export_network(network, source, None, ("onnx",), tmp_path, preprocessing="beside")
        (tmp_path / "predict.py").write_text(predict_script(form_of(network, source, preprocessing), "model.onnx"))
        rows = alone(tmp_path / "predict.py", tmp_path / "rows.npy")
        assert [row[1] for row in rows] == [f"c{i}" for i in wanted.argmax(1).tolist()]
        assert [float(row[2]) for row in rows] == pytest.approx(wanted.amax(1).tolist(), abs=2e-4)


# ---- nets


def standardised(channels: int, classes: int) -> nn.Module:
    """A pre-activation ResNet with GroupNorm and Weight Standardization, as BiT's are."""
    from timm.layers.norm_act import GroupNormAct
    from timm.layers.std_conv import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2(
        [1, 1], (16, 32), classes, channels, stem_chs=8, stem_type="same",
        norm_layer=partial(GroupNormAct, num_groups=4), conv_layer=partial(StdConv2d, eps=1e-8),
    )  # fmt: skip


def fitted(network: Network, source: Source, steps: int) -> Network:
    """Trained for some steps on all of a source: wide margins, as a net that is exported has."""
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


def test_a_net_with_group_norm_and_standardised_weights(digits: Splits, tmp_path: Path) -> None:
    assert digits.test is not None
    torch.manual_seed(0)
    network = fitted(build(standardised(1, 10), contract_of(digits.train)), digits.train, 60)
    formats, beside = ("onnx", "int8"), "beside"
    exact, small = export_network(
        network, digits.test, digits.train, formats, tmp_path, preprocessing=beside, tolerance=4
    )
    assert exact.original.accuracy is not None
    assert exact.original.accuracy > 0.5
    assert exact.agreement == 1
    assert small.agreement > 0.9


def test_a_net_that_shuffles(tmp_path: Path) -> None:
    source = pictures(40, 3, 32)
    network = fitted(build("cifar:shufflenetv2", contract_of(source)), source, 1)
    (one,) = export_network(network, source, None, ("onnx",), tmp_path, preprocessing="beside")
    assert one.agreement == 1
    assert one.bytes < 1.1 * one.original.bytes


# ---- the checks


@pytest.mark.parametrize("before", [False, True])
def test_a_broken_file_is_an_error_and_is_not_kept(
    before: bool, run: Run, exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    if before:
        shutil.copytree(exported.path, folder)
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], make=partial(tampered, FORMATS["onnx"].make)))
    with pytest.raises(UnderstudyError, match=r"model\.onnx disagrees .* of 359 samples, \d+ have a logit .* worst by"):
        understudy.export(run.path, format=("torch", "onnx"), out=folder)
    assert contents(folder) == (contents(exported.path) if before else {})
    assert folder.exists() == before


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}


def tampered(make: Callable[[Any], bytes], job: Any) -> bytes:
    """A model with one weight of its last layer changed by a tenth of the largest."""
    model = onnx.load_from_string(make(job))
    last = [x for x in model.graph.initializer if len(x.dims) == 2][-1]
    values = onnx.numpy_helper.to_array(last).copy()
    values[0, 0] += 0.1 * np.abs(values).max()
    last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
    return model.SerializeToString()


def test_what_counts_as_disagreement() -> None:
    wanted = torch.tensor([[10.0, 0.0, 0.0], [5.0, 4.9995, 0.0], [5.0, 4.995, 0.0]])

    def check(said: Tensor) -> None:
        check_float(Answers(wanted, {"onnx": said}, None), "onnx", "model.onnx")

    check(wanted + 0.009)
    check(wanted + torch.tensor([[0, 0, 0], [-0.001, 0.001, 0], [0, 0, 0]]))  # a tie, broken the other way
    with pytest.raises(UnderstudyError, match=r"of 3 samples, 3 have a logit that is off by more than 0\.01"):
        check(wanted + 0.011)
    with pytest.raises(UnderstudyError, match="another class for 1 of 3"):
        check(wanted + torch.tensor([[0, 0, 0], [0, 0, 0], [-0.005, 0.005, 0]]))
    with pytest.raises(UnderstudyError, match="1 have a logit"):
        check(wanted.clone().index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(torch.nan)))
    with pytest.raises(UnderstudyError, match=r"gives \(3, 2\) logits"):
        check(wanted[:, :2])


def test_what_int8_may_lose() -> None:
    wanted = torch.eye(4).repeat(25, 1)
    targets = wanted.argmax(1)
    said = wanted.clone()
    said[:3] = said[:3].roll(1, 1)

    def check(tolerance: float, labels: Tensor | None, logits: Tensor = said) -> None:
        check_int8(Answers(wanted, {"int8": logits}, labels), "int8", "model-int8.onnx", tolerance)

    check(3.01, targets)
    check(0, said.argmax(1))  # better than the network
    with pytest.raises(UnderstudyError, match=r"accuracy is 97.00% where the network's is 100.00%, 3.00 points"):
        check(2.9, targets)
    with pytest.raises(UnderstudyError, match=r"agreement with the network is 97.00%"):
        check(2.9, None)
    with pytest.raises(UnderstudyError, match="lost too much"):
        check(100, targets, said * torch.nan)


# ---- the program that goes with it

_GUARD = """
import runpy, sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names | {"onnxruntime", "numpy", "PIL"} and not top.startswith("_"):
            raise ModuleNotFoundError(f"{name} is not to be imported", name=name)
sys.meta_path.insert(0, Guard())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"torch", "understudy", "onnx"} & set(sys.modules)
"""


def alone(script: Path, *args: Path) -> list[list[str]]:
    """What a program prints in a process of its own that may import onnxruntime, numpy and Pillow alone."""
    done = subprocess.run([sys.executable, "-c", _GUARD, script, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def photographs(folder: Path) -> list[Path]:
    """Of other sizes than the net's, one transparent, one turned, one grey."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    names = ("wide.png", "tall.jpg", "big.png", "glass.png", "grey.png", "turned.jpg", "deep.png")
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
    (1, "inside", False), (3, "beside", False), (3, "inside", True),
])  # fmt: skip
def test_the_program_says_what_predict_says(channels: int, preprocessing: str, whole: bool, tmp_path: Path) -> None:
    """`whole`: a transferred net is shown whole images, not their central squares."""
    source = pictures(60, channels)
    network = build("cnn:6-8", contract_of(source), seed=channels)
    (network.feed(16) if whole else network).save(tmp_path / "net.safetensors")
    assert source.targets is not None
    done = understudy.export(
        tmp_path / "net.safetensors", data=Splits(source, source), preprocessing=preprocessing, out=tmp_path / "out"
    )
    files = photographs(tmp_path / "photos")
    wanted = api.predict(tmp_path / "net.safetensors", files)
    found = alone(done.path / "predict.py", *files)
    assert [row[0] for row in found] == [one.path for one in wanted]
    assert [row[1] for row in found] == [one.classes[0] for one in wanted]
    assert [float(row[2]) for row in found] == pytest.approx([one.probabilities[0] for one in wanted], abs=2e-4)
    code = (done.path / "predict.py").read_text()
    assert len(re.findall(r"^(?!import|from|$)", code[code.index("session") :], re.MULTILINE)) < 16


def test_a_net_of_one_s_own_is_imported_only_where_its_file_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n\ndef tiny(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder, photo = str(tmp_path / "run"), tmp_path / "photo.png"
    Image.new("L", (8, 8)).save(photo)
    trained = ["train", "digits", "--model", "own_nets:tiny", "--epochs", "1", "--precision", "32", "--run", folder]
    assert main(trained) == 0
    for words in (["evaluate", folder, "digits"], ["predict", folder, str(photo)], ["export", folder]):
        assert main(words) == 2
        assert "--trust-code" in " ".join(capsys.readouterr().err.split())
        assert main([*words, "--trust-code"]) == 0
    assert (tmp_path / "run" / "export" / "model.onnx").exists()


# ---- the card


def test_the_card(run: Run, exported: Any) -> None:
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


def test_names_cannot_break_the_card(exported: Any, digits: Splits, run: Run) -> None:
    assert digits.test is not None
    form = form_of(run.network("distilled-0"), digits.test, "inside")
    form = replace(form, contract=replace(form.contract, classes=("<b>|`", "a\n# b", "*c*")))
    text = model_card(About("net", "mlp:32x1", "my_photos", None, 9, 0, None, None), form, exported.files, None)
    assert r"Classes, in order: \<b\>\|\`, a \# b, \*c\*." in text
    assert r"on my\_photos" in text
    assert "license" not in text
    assert "datasets:" not in text


# ---- on the command line, and mistakes


def test_on_the_command_line(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "device"
    line = ["export", str(run.path), "--format", "onnx", "int8", "--calibrate", "20", "--out", str(out)]
    line += ["--preprocessing", "beside"]
    assert main(line) == 0
    said = capfd.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert [row.split()[0] for row in lines[:4]] == ["file", "in", "model.onnx", "model-int8.onnx"]
    assert "%" in lines[2]
    assert f"model card: {out / 'README.md'}" in said.out
    assert json.loads((out / "export.json").read_text())["calibrated_on"] == 20


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_mistakes_are_one_sentence(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(run.models["alone-0"])
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.yaml").write_text("kind: train\ndata: digits\nmodel: mlp:8x1\n")
    (tmp_path / "README.md").write_text("mine")
    demo = str(run.path)
    for argv, says in (
        ((demo, "--format", "onxx"), "there is no format 'onxx'; did you mean 'onnx'?"),
        ((demo, "--network", "distiled-1"), "no network 'distiled-1'; did you mean 'distilled-1'?"),
        ((demo, "--preprocessing", "outside"), "inside or beside, not 'outside'"),
        ((demo, "--format", "int8", "--calibrate", "0"), "--calibrate must be at least 1"),
        ((demo, "--out", str(tmp_path)), "holds a README.md of its own"),
        ((str(unfinished),), "holds no trained model; finish it with: understudy resume"),
        ((str(tmp_path / "absent"),), "there is no run folder or weights file"),
        ((weights,), "does not say what to check its files on; pass --data"),
        ((weights, "--data", "digits", "--network", "alone-0"), "is one network; leave out --network"),
        ((weights, "--data", "no-such-set"), "no-such-set"),
    ):
        assert says in fails(capsys, "export", *argv), argv


def test_data_that_does_not_suit(run: Run, digits: Splits, tmp_path: Path) -> None:
    weights = run.models["alone-0"]
    with pytest.raises(UnderstudyError, match="has no test part to check the files on"):
        understudy.export(weights, data=digits.train, out=tmp_path)
    with pytest.raises(UnderstudyError, match=r"alone-0 knows 10 classes .* the data has 3"):
        understudy.export(weights, data=Splits(pictures(), pictures()), out=tmp_path)
    assert digits.test is not None
    with pytest.raises(UnderstudyError, match="int8 is calibrated on real samples, and there are none"):
        export_network(run.network("alone-0"), digits.test, None, ("int8",), tmp_path)
    assert not list(tmp_path.iterdir())


def test_heads_that_were_not_trained(run: Run, tmp_path: Path) -> None:
    other = Run(tmp_path / "r")
    (tmp_path / "r" / "models").mkdir(parents=True)
    (tmp_path / "r" / "recipe.yaml").write_text("kind: train\ndata: digits\nmodel: mlp:32x1\n")
    (tmp_path / "r" / "models" / "model-0.safetensors").write_bytes(run.models["alone-0"].read_bytes())
    other.note(untrained_heads=["model-0"])
    with pytest.raises(UnderstudyError, match="head of model-0 was not trained"):
        understudy.export(tmp_path / "r")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_missing(package: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnderstudyError, match=rf"need the package {package}, .* pip install 'understudy\[export\]'"):
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


def test_what_cannot_be_exported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = pictures()
    network = Network(Odd(), contract_of(source))
    with pytest.raises(UnderstudyError, match=r"no operator for understudy_tests\.odd\.default; .* --format torch"):
        export_network(network, source, None, ("onnx",), tmp_path, preprocessing="beside")
    (kept,) = export_network(network, source, None, ("torch",), tmp_path)
    assert kept.worst_difference == 0
    with pytest.raises(UnderstudyError, match=r"cannot be exported: torch\.export could not trace it") as caught:
        export_network(Network(Branching(), contract_of(source)), source, None, ("onnx",), tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_full_disk(run: Run, tmp_path: Path) -> None:
    """A limit on a file's size stands for it: the write fails in the middle, as on a full disk."""
    program = (
        "import resource, sys; from understudy.cli import main; import understudy.exporting; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "out"
    line = [sys.executable, "-c", program, "export", str(run.path), "--format", "torch", "--out", str(out)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"error: .*could not be written \(File too large\).*\n", done.stderr)
    assert not out.exists()
