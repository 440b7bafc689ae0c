"""`--compile`: the same weights and checkpoints as without; and what is said where nothing can be compiled.

Compiled here means traced by torch.compile and run by a backend that compiles nothing, as C++ would take a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy
from test_resume import stop_after
from understudy.errors import Interrupted, UnderstudyError
from understudy.models import InputContract, Network
from understudy.models.weights import read_weights
from understudy.runs.run import Run
from understudy.training.compilation import compiled, why_not_compiled

FIELDS: dict[str, Any] = {
    "model": "mlp:24x2?dropout=0.3&batchnorm=true", "epochs": 2, "batch_size": 100, "ema": 0.9, "validation": 0.2,
    "precision": "32", "threads": 1, "checkpoint_every": 0, "optimizer": "sgd", "lr": 0.05,
}  # fmt: skip

ONCE: dict[str, Any] = {**FIELDS, "epochs": 1}


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the inputs that networks were traced for."""
    traced: list[tuple[int, ...]] = []

    def backend(graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        traced.extend(tuple(x.shape) for x in inputs if isinstance(x, Tensor) and x.shape[1:] == (1, 8, 8))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return traced


def tensors(run: Run) -> dict[str, Tensor]:
    return dict(read_weights(run.models["model-0"]).tensors)


def test_compiled_networks_train_as_others_do(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    """Each size of batch is traced once: of training, of the ragged last batch."""
    plain = understudy.train("digits", run=tmp_path / "plain", **FIELDS)
    assert shapes == []
    run = understudy.train("digits", run=tmp_path / "compiled", compile=True, **FIELDS)
    assert sorted(shapes) == sorted(set(shapes))
    assert (100, 1, 8, 8) in shapes
    assert len(shapes) == 2
    expected = tensors(plain)
    assert tensors(run).keys() == expected.keys()
    for name, value in tensors(run).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_students_that_show_different_layers_share_no_code(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    """One without hooks would else run what was compiled for one with them, or the other way round."""
    teacher = understudy.train("digits", "cnn:4-8", epochs=1, threads=1, run=tmp_path / "teacher")
    options: dict[str, Any] = {"precision": "32", "threads": 1, "steps": 4, "batch_size": 100, "seeds": 2}
    plain, run = (
        understudy.distill(
            "digits",
            teacher.path,
            "cnn:4-4",
            method="crd+at+kd",
            compile=compile,
            run=tmp_path / str(compile),
            **options,
        )
        for compile in (False, True)
    )
    assert len(shapes) == 2, "once for students alone, once for those whose layers are read"
    assert len(run.models) == 4
    for member, path in run.models.items():
        expected = read_weights(plain.models[member]).tensors
        for name, value in read_weights(path).tensors.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compile_again", [True, False])
def test_a_stopped_run_goes_on_with_and_without(
    tmp_path: Path, shapes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, compile_again: bool
) -> None:
    whole = understudy.train("digits", run=tmp_path / "whole", compile=True, **FIELDS)
    with monkeypatch.context() as patch:
        stop_after(patch, 13)
        with pytest.raises(Interrupted):
            understudy.train("digits", run=tmp_path / "run", compile=True, **FIELDS)
    assert Run(tmp_path / "run").recipe.compile
    if not compile_again:
        monkeypatch.setattr("understudy.pipeline.run.why_not_compiled", lambda device: "there is no compiler")
    shapes.clear()
    torch._dynamo.reset()
    run = understudy.resume(tmp_path / "run")
    assert isinstance(run, Run)
    assert bool(shapes) == compile_again
    for name, value in tensors(run).items():
        torch.testing.assert_close(value, tensors(whole)[name], rtol=1e-4, atol=1e-5)
    if compile_again:
        assert run.models["model-0"].read_bytes() == whole.models["model-0"].read_bytes()


def test_without_a_compiler_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache")
    )  # else kernels compiled before would be found
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        run = understudy.train("digits", run=tmp_path / "run", compile=True, **ONCE)
    said = [line for line in capfd.readouterr().out.splitlines() if "torch.compile" in line]
    assert len(said) == 1
    assert said[0].startswith("training runs without torch.compile: ")
    assert "no-such-compiler" in said[0]
    assert run.finished


def test_a_network_that_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    network = Network(nn.Linear(3, 2), InputContract((3,), (0.0,), (1.0,), ("a", "b")))
    with (
        pytest.raises(UnderstudyError, match=r"cannot be compiled \(.*no kernel for this.*\); leave out --compile"),
        compiled([network]),
    ):
        network(torch.zeros(4, 3))
    assert network(torch.zeros(4, 3)).logits.shape == (4, 2), "it is as before"


def test_a_compiler_is_looked_for(shapes: list[tuple[int, ...]]) -> None:
    assert why_not_compiled(torch.device("cpu")) == ""
