"""Formats of one network side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import understudy
from understudy.cli.app import main
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import BenchmarkFacts
from understudy.exporters import FORMATS
from understudy.runs.run import Run

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("cached_operators")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "net"
    return understudy.train("digits", "mlp:32x1", run=folder, epochs=4, precision="32", lr=0.01, threads=1)


@pytest.fixture(scope="module")
def done(run: Run) -> Any:
    return understudy.benchmark(run.path, "digits", formats=("onnx", "torch", "int8"), threads=(1, 2))


def test_each_file_is_beside_the_network(run: Run, done: Any) -> None:
    facts = done.facts
    assert [one.format for one in facts.files] == ["onnx", "torch", "int8"]
    assert facts.original.accuracy == pytest.approx(run.facts.rows[0].mean("accuracy"))
    for one in facts.files:
        assert one.bytes == (done.path / one.file).stat().st_size
        assert one.agreement > 0.95
    assert [one.threads for one in facts.timed] == [1, 2]
    for one in facts.timed:
        assert set(one.latency_ms) == {"original", "onnx", "torch", "int8"}
        assert all(0 < one.latency_ms[name] <= one.latency_p90_ms[name] for name in one.latency_ms)
    assert facts == BenchmarkFacts.from_json(json.loads((done.path / "evaluation.json").read_text()))


def test_page_has_a_picture_for_each_number_of_threads(done: Any) -> None:
    page = done.report.read_text()
    assert page.count("<figure>") == 2
    assert "against latency, 2 threads" in page
    assert all(f"<td>{name}</td>" in page for name in ("PyTorch", "onnx", "torch", "int8"))
    assert str(done.path.parent) not in page


def test_all_leaves_out_what_cannot_be_written_with_the_reason(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in set(FORMATS) - {"onnx", "coreml", "openvino"}:
        monkeypatch.delitem(FORMATS, name)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert main(["benchmark", str(run.path), "digits", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "openvino left out: OpenVINO export needs the package openvino" in out
    assert "coreml left out" in out
    assert f"report: {tmp_path / 'report.html'}" in out
    with pytest.raises(UnderstudyError, match="needs the package openvino"):
        understudy.benchmark(run.path, "digits", formats="openvino", out=tmp_path / "other")
