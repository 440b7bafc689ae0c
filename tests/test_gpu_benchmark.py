"""The benchmark of a GPU, as far as it runs without one."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from test_step import Recorder, weights

GPU_BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def test_the_gpu_benchmark_asks_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"this measures a GPU, and torch finds none here"):
        runpy.run_path(str(GPU_BENCHMARK), run_name="__main__")


@pytest.mark.filterwarnings("ignore::UserWarning")  # the profiler's, of a GPU that is not there
def test_the_gpu_benchmark_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick"])
    runpy.run_path(str(GPU_BENCHMARK), run_name="__main__")
    out = capsys.readouterr().out
    assert "images/s" in out
    assert "crd+kd" in out
    assert "cnn:4-8 -> cnn:4 on digits" in out


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    return runpy.run_path(str(GPU_BENCHMARK))


def cohort(benchmark: dict[str, Any], mode: str, **more: Any) -> Any:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    return benchmark["Cohort"](fabric, benchmark["QUICK"], "cifar:resnet8", "crd+kd", 2, mode, **more)


def test_graphed_steps_are_those_of_eager_ones(benchmark: dict[str, Any]) -> None:
    recorder = Recorder()
    plain, graphed = cohort(benchmark, "ahead"), cohort(benchmark, "graphed", record=recorder)
    recorder.step = graphed.update
    for step in (plain.update, graphed.update.eager):
        step.rate = torch.zeros(())
    for one in (plain, graphed):
        one.steps(7)
    assert [recorded.checked for recorded in graphed.update.recorded.values()] == [True]
    expected = weights(plain.update.members)
    for name, value in weights(graphed.update.eager.members).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_compiled_students_train_as_eager_ones(benchmark: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, not compiled, which would take minutes."""
    traced: list[int] = []

    def backend(graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        traced.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, compiled = cohort(benchmark, "ahead"), cohort(benchmark, "compiled")
    for one in (plain, compiled):
        with one.prepared:
            one.steps(3)  # the fourth would be recorded
    assert traced
    expected = weights(plain.update.members)
    for name, value in weights(compiled.update.eager.members).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
