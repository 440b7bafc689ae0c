"""A run killed at any moment and resumed ends with the same bytes as one never killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import understudy
from understudy.config.options import OptimizerConfig
from understudy.config.recipe import TrainRecipe
from understudy.errors import Interrupted, UnderstudyError, UnderstudyWarning
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run import ensure, start
from understudy.runs.run import Run
from understudy.training.checkpoint import read_newest
from understudy.training.loop import Loop

RECIPE = TrainRecipe(
    data="digits",
    model="mlp:24x2?dropout=0.3&batchnorm=true",
    seeds=2,
    epochs=3,
    batch_size=100,
    micro_batch=64,
    validation=0.2,
    patience=2,
    checkpoint_every=0.0,
    optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.01, ema=0.9, clip=1.0),
)

_PROGRAM = """
import sys
from pathlib import Path
from understudy.config.yaml import read_yaml, recipe_from
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run import ensure
if __name__ == "__main__":
    ensure(pipeline_of(recipe_from(read_yaml(Path(sys.argv[1])))), Path(sys.argv[2]))
"""


def models(run: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in Run(run).models.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The models of a run that nothing disturbed."""
    return models(start(pipeline_of(RECIPE), tmp_path_factory.mktemp("whole")).path)


def start_process(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    from understudy.config.yaml import to_yaml

    recipe, program = folder / "wanted.yaml", folder / "program.py"
    recipe.write_text(to_yaml(RECIPE))
    program.write_text(_PROGRAM)
    command = [sys.executable, str(program), str(recipe), str(folder / "run")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ), folder / "run"


def wait_for_checkpoint(run: Path, number: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if any(int(p.stem[5:]) >= number for p in (run / "checkpoints").glob("step-*.sha256")):
            return
        time.sleep(0.005)
    pytest.fail("no checkpoint was written")


def test_killed_and_resumed_ends_with_the_same_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    for number in (3, 17):
        process, run = start_process(tmp_path)
        wait_for_checkpoint(run, number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
    understudy.resume(run)
    assert models(run) == whole
    steps = [row["step"] for row in Run(run).epochs() if row["part"] == "train" and row["member"] == "model-0"]
    assert steps == sorted(set(steps)), "the metrics of lost steps are cut away"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_writes_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    stop_after(monkeypatch, 2, number)
    with pytest.raises(Interrupted, match=f"continue with: understudy resume {run}") as caught:
        start(pipeline_of(RECIPE), run)
    monkeypatch.undo()
    assert caught.value.signal_number == number
    understudy.resume(run)
    assert models(run) == whole


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop_after(monkeypatch, 7)
    with pytest.raises(Interrupted):
        start(pipeline_of(RECIPE), run)
    monkeypatch.undo()
    newest = max((run / "checkpoints").glob("step-*.safetensors"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.warns(UnderstudyWarning, match="damaged"):
        found = read_newest(run / "checkpoints")
    assert found is not None
    assert found[1]["step"] == int(newest.stem[5:]) - 1
    with pytest.warns(UnderstudyWarning, match="damaged"):
        understudy.resume(run)
    assert models(run) == whole


def test_a_full_disk_while_checkpointing_is_said_and_loses_nothing(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = tmp_path / "run", os.fsync
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnderstudyError, match="No space left on device"):
        start(pipeline_of(RECIPE), run)
    monkeypatch.undo()
    assert not list(run.rglob("*.partial")), "nothing half-written is left"
    assert read_newest(run / "checkpoints") is not None
    understudy.resume(run)
    assert models(run) == whole


def test_a_run_folder_is_not_taken_twice(tmp_path: Path) -> None:
    quick = RECIPE.model_copy(update={"epochs": 1, "seeds": 1, "patience": None})
    start(pipeline_of(quick), tmp_path)
    with pytest.raises(UnderstudyError, match="finished; pass --overwrite"):
        start(pipeline_of(quick), tmp_path)
    with pytest.raises(UnderstudyError, match="another recipe"):
        start(pipeline_of(RECIPE), tmp_path)
    with pytest.raises(UnderstudyError, match="is finished"):
        understudy.resume(tmp_path)
    with pytest.raises(UnderstudyError, match="is not a run folder"):
        understudy.resume(tmp_path / "models")
    assert ensure(pipeline_of(quick), tmp_path).path == tmp_path


def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnderstudyError, match="could not be written"):
        start(pipeline_of(RECIPE), tmp_path / "file" / "run")


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Have a real signal arrive once so many updates were made."""
    real = Loop._update

    def update(self: Loop, batch: object, samples: int) -> None:
        real(self, batch, samples)  # type: ignore[arg-type]
        if self._step + 1 == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Loop, "_update", update)
