"""Formats with converters of their own: each is run where its packages are installed."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import understudy
from understudy.data import open_source
from understudy.errors import UnderstudyError
from understudy.exporters import FORMATS, interface_of
from understudy.exporters.openvino import import_silent
from understudy.runs.run import Run

EXTRA = ("openvino", "litert", "litert-int8", "executorch", "coreml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small CNN."""
    folder = tmp_path_factory.mktemp("runs")
    return understudy.train("digits", "cnn:8-16", run=folder / "net", epochs=4, precision="32", lr=0.01, threads=1)


@pytest.fixture(scope="module", params=EXTRA)
def exported(request: pytest.FixtureRequest, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An export to one format, which must be installed."""
    missing = [name for name in FORMATS[request.param].packages if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    return understudy.export(run.path, format=request.param, out=tmp_path_factory.mktemp("out") / "export")


def test_file_answers_as_the_network_does(run: Run, exported: Any) -> None:
    (one,) = exported.files
    made = FORMATS[one.format]
    assert one.bytes == sum(file.stat().st_size for part in one.parts for file in walk(exported.path / part))
    if not made.runs_here:
        assert not one.checked
        assert math.isnan(one.latency_ms)
        return
    test = open_source("digits").test
    assert test is not None
    network = run.network("model-0").eval()
    interface = interface_of(network, test)
    batch = test.inputs[:20]  # type: ignore[attr-defined]
    with torch.inference_mode():
        wanted = network(batch.float() / 255).logits
    found = made.load(one.file, 1)(interface.convert(batch.float() / 255, network))
    assert one.original.accuracy > 0.8
    if made.exact:
        assert torch.allclose(found, wanted, atol=1e-4)
        assert (one.agreement, one.accuracy) == (1.0, one.original.accuracy)
    else:
        assert one.agreement > 0.95
        assert one.accuracy > one.original.accuracy - 0.02
        assert (found - wanted).abs().mean() < 0.2 * wanted.abs().mean()


def walk(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def test_class_names_mean_and_size_are_in_the_file(run: Run, exported: Any) -> None:
    (one,) = exported.files
    found = {key: json.loads(value) for key, value in METADATA[one.format](one.file).items()}
    contract = run.network("model-0").contract
    assert found["classes"] == list("0123456789")
    assert found["mean"] == pytest.approx(contract.mean)
    assert found["std"] == pytest.approx(contract.std)
    assert found["size"] == [8, 8]
    assert found["input"] == {"shape": ["N", 8, 8, 1], "layout": "NHWC", "dtype": "uint8"}


def of_openvino(file: Path) -> dict[str, str]:
    return import_silent("openvino").Core().read_model(file).get_rt_info("understudy").value


def of_litert(file: Path) -> dict[str, str]:
    with zipfile.ZipFile(file) as held:
        return {name.removesuffix(".json"): held.read(name).decode() for name in held.namelist()}


def of_executorch(file: Path) -> dict[str, str]:
    from executorch.runtime import Runtime  # type: ignore[import-not-found]

    program = Runtime.get().load_program(file)
    return {key: program.load_method(key).execute([])[0] for key in program.method_names - {"forward"}}


def of_coreml(file: Path) -> dict[str, str]:
    import coremltools as ct  # type: ignore[import-not-found]

    held = ct.models.MLModel(str(file), skip_model_load=True).user_defined_metadata
    return {key: value for key, value in held.items() if not key.startswith("com.github")}


METADATA = {
    "openvino": of_openvino, "litert": of_litert, "litert-int8": of_litert, "executorch": of_executorch,
    "coreml": of_coreml,
}  # fmt: skip


def test_predict_script(run: Run, exported: Any, tmp_path: Path) -> None:
    if FORMATS[exported.files[0].format].script is None:
        assert not (exported.path / "predict.py").exists()
        return
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file, size in zip(files, ((8, 8), (20, 13), (9, 30)), strict=True):
        Image.fromarray(rng.integers(0, 256, size).astype(np.uint8)).save(file)
    done = subprocess.run([sys.executable, exported.path / "predict.py", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    wanted = understudy.predict(run.path, files)
    tolerance = 1e-3 if FORMATS[exported.files[0].format].exact else 0.2
    assert [row[0] for row in rows] == [one.path for one in wanted]
    assert [float(row[2]) for row in rows] == pytest.approx([one.probabilities[0] for one in wanted], abs=tolerance)


def test_card_and_json_say_what_holds(exported: Any) -> None:
    (one,) = exported.files
    card, held = (exported.path / "README.md").read_text(), json.loads((exported.path / "export.json").read_text())
    assert f"| `{one.file.name}` |" in card
    assert ("one sample at a time" in card) is not FORMATS[one.format].several
    assert held["files"][0]["parts"] == list(one.parts)
    assert (held["files"][0]["agreement"] is None) is not one.checked
    assert ("cannot be run on the system that wrote it" in card) is not one.checked


def test_an_export_replaces_all_parts_of_an_earlier_one(run: Run, exported: Any, tmp_path: Path) -> None:
    (one,) = exported.files
    for _ in range(2):  # the second one over the first
        understudy.export(run.path, format=one.format, out=tmp_path)
    understudy.export(run.path, format="torch", out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "export.json", "model.pt2"]


@pytest.mark.parametrize("name", EXTRA)
def test_missing_packages_are_named_with_their_extra(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in FORMATS[name].packages:
        monkeypatch.setitem(sys.modules, package, None)
    extra, first = FORMATS[name].extra, FORMATS[name].packages[0]
    with pytest.raises(UnderstudyError, match=rf"needs the package {first}, .*pip install 'understudy\[{extra}\]'"):
        understudy.export(run.path, format=name, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_core_ml_runs_on_macos_only() -> None:
    assert FORMATS["coreml"].runs_here is (platform.system() == "Darwin")
    assert all(made.runs_here for name, made in FORMATS.items() if name != "coreml")


def test_openvino_reports_nothing(run: Run, tmp_path: Path) -> None:
    """In a process of its own, as the package that reports is imported once."""
    if find_spec("openvino") is None:
        pytest.skip("openvino not installed")
    program = (
        "import sys, understudy; understudy.export(sys.argv[1], format='openvino', out=sys.argv[2]); "
        "assert 'openvino' in sys.modules; assert not [name for name in sys.modules if 'openvino_telemetry' in name]"
    )
    subprocess.run([sys.executable, "-c", program, run.path, tmp_path / "out"], check=True, capture_output=True)
