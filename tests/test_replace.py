"""--overwrite: the old results stay until the new ones have a checkpoint, and nothing else is ever removed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import understudy
from resumable import QUICK, VERBS, make_home, stop_at, weights, written
from understudy.cli import main
from understudy.errors import Interrupted, UnderstudyError
from understudy.runs import Run

TRAIN: dict[str, Any] = {"epochs": 1, **QUICK}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run, with a file of the user's beside its own."""
    run = understudy.train("digits", "mlp:4", run=tmp_path / "r", **TRAIN)
    (run.path / "notes.txt").write_text("mine")
    (run.path / "models" / "resnet-50.safetensors").write_text("mine")
    return run.path


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mistake", [
    {"data": "digitz"}, {"data": "digits", "model": "mlpp:4"}, {"data": "digits", "class_bias": ("x=1",)},
    {"data": "digits", "batch_size": 5000}, {"data": "digits", "only_classes": ("no such",)},
])  # fmt: skip
def test_a_mistake_leaves_the_old_run_as_it_was(mistake: dict[str, Any], old: Path) -> None:
    before = state(old)
    with pytest.raises(UnderstudyError):
        understudy.train(**{"model": "mlp:8", **mistake}, run=old, overwrite=True, **TRAIN)
    assert state(old) == before


def test_what_replaces_a_run_is_what_a_new_folder_would_hold_and_files_of_others_stay(
    old: Path, tmp_path: Path
) -> None:
    new = understudy.train("digits", "mlp:8", run=tmp_path / "new", seeds=2, **TRAIN)
    run = understudy.train("digits", "mlp:8", run=old, seeds=2, overwrite=True, **TRAIN)
    assert run.finished
    assert run.facts.name == "r"
    others = {"notes.txt", "models/resnet-50.safetensors"}
    assert written(old) - others == written(new.path)
    assert {file: data for file, data in weights(old).items() if file not in others} == weights(new.path)
    assert all((old / other).read_text() == "mine" for other in others)


def test_what_a_run_starts_from_is_not_replaced_by_it(old: Path) -> None:
    before = state(old)
    calls = [
        lambda: understudy.distill("digits", old, "mlp:4", run=old, overwrite=True, **TRAIN),
        lambda: understudy.train("digits", old / "models/model-0.safetensors", run=old, overwrite=True, **TRAIN),
        lambda: understudy.specialists("digits", old, run=old, overwrite=True, clusters=2, **TRAIN),
    ]
    for call in calls:
        with pytest.raises(UnderstudyError, match=r"would be replaced; choose another --run folder"):
            call()
    assert state(old) == before


def test_a_folder_may_be_called_like_its_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    understudy.train("digits", "mlp:4", run="digits", **TRAIN)
    assert understudy.train("digits", "mlp:8", run="digits", overwrite=True, **TRAIN).finished


def test_a_folder_that_is_not_of_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("kind: train\ndata: digits\nmodel: mlp:4\n")
    for name in ("models", "checkpoints"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model-0.safetensors").write_text("mine")
    before = state(tmp_path)
    with pytest.raises(UnderstudyError, match=r"recipe\.yaml is not of a run"):
        understudy.train("digits", "mlp:4", run=".", overwrite=True, **TRAIN)
    with pytest.raises(UnderstudyError, match=r"recipe\.yaml is not of a run"):
        understudy.train("digits", "mlp:4", run=".", **TRAIN)
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text("flour: 500\n")
    with pytest.raises(UnderstudyError, match=r"recipe\.yaml is not of a run"):
        understudy.train("digits", "mlp:4", run=".", overwrite=True, **TRAIN)
    (tmp_path / "run.json").unlink()
    (tmp_path / "recipe.yaml").write_bytes(before["recipe.yaml"])
    assert state(tmp_path) == before


def test_in_the_current_folder(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old)
    understudy.train("digits", "mlp:8", run=".", overwrite=True, **TRAIN)
    assert Run(Path(".")).finished
    assert (old / "notes.txt").exists()


@pytest.mark.parametrize("verb", ["few shots", "suite", "compress", "specialists"])
def test_collections_are_replaced_whole(verb: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, again = tmp_path / "once", tmp_path / "again"
    VERBS[verb](home, once)
    understudy.train("digits", "mlp:4", run=again, **TRAIN)
    monkeypatch.setattr("understudy.verbs.arguments.place", overwriting)
    for module in ("few_shots", "suite", "compress", "specialists"):
        monkeypatch.setattr(f"understudy.verbs.{module}.place", overwriting)
    VERBS[verb](home, again)
    assert weights(again) == weights(once)
    assert written(again) == written(once)
    VERBS[verb](home, again)
    assert weights(again) == weights(once)
    assert written(again) == written(once)


def overwriting(run: Path, overwrite: bool) -> Any:
    from understudy.verbs.arguments import Place

    return Place(run, True)


def test_stopped_at_once_it_can_be_resumed(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal during the first update: the new run has a checkpoint, and takes the place."""
    new = understudy.train("digits", "mlp:8", run=tmp_path / "new", **TRAIN)
    stop_at(monkeypatch, 1)
    with pytest.raises(Interrupted, match=f"continue with: understudy resume {old}"):
        understudy.train("digits", "mlp:8", run=old, overwrite=True, **TRAIN)
    monkeypatch.undo()
    understudy.resume(old)
    assert (old / "models/model-0.safetensors").read_bytes() == (new.path / "models/model-0.safetensors").read_bytes()


def test_the_second_process_is_told_who_holds_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a run trains, the same command and a resume are refused; and the run goes on undisturbed."""
    folder = tmp_path / "r"
    from understudy.training.loop import Loop

    real = Loop._update
    answers: list[int] = []

    def update(self: Loop, *arguments: Any) -> None:
        real(self, *arguments)
        if not answers:
            answers.append(0)
            pid = os.fork()
            if pid == 0:  # another process
                codes = {
                    main(["resume", str(folder)]),
                    main(["train", "digits", "--model", "mlp:4", "--run", str(folder)]),
                }
                os._exit(0 if codes == {2} else 1)
            answers.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    monkeypatch.setattr(Loop, "_update", update)
    run = understudy.train("digits", "mlp:4", run=folder, **TRAIN)
    assert answers == [0, 0]
    assert run.finished
    assert not (folder / ".lock").exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    import socket

    from understudy.runs.lock import LOCK, locked

    pid = os.fork()
    if pid == 0:
        with locked(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert f'"pid": {pid}, "host": "{socket.gethostname()}"' in (tmp_path / LOCK).read_text()
    with locked(tmp_path), locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / LOCK).write_text(f'{{"pid": {os.getpid()}, "host": "elsewhere"}}')
    with pytest.raises(UnderstudyError, match=f"in use by process {os.getpid()} on elsewhere"), locked(tmp_path):
        pass
    (tmp_path / LOCK).write_text(f'{{"pid": {os.getpid()}, "host": "{socket.gethostname()}", "began": "1"}}')
    with locked(tmp_path):  # that process is gone, and its number was given to another
        pass
    (tmp_path / LOCK).write_bytes(b"\xff")
    with locked(tmp_path):
        pass
