"""Damaged files of a run: one sentence that says what to do, or the checkpoint before; never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import understudy
from resumable import QUICK, VERBS, make_home, stop_at, weights
from understudy.cli import main
from understudy.errors import Interrupted, UnderstudyWarning

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "not UTF-8": lambda data: b"\xff\xfe" + data,
    "a list": lambda data: b"[1, 2]",
    "deep": lambda data: b"[" * 100_000,
    "other types": lambda data: (
        b'{"finished": "perhaps", "config": 3, "command": 4, "runs": {}, "notes": 0, "tasks": 5}'
    ),
}
FILES = {
    "train": ("run.json", "recipe.yaml", "evaluation.json"),
    "suite": ("collection.json", "evaluation.json"),
    "compress": ("collection.json", "backbone/run.json"),
    "few shots": ("collection.json", "subsets/shots-1-draw-0.json"),
    "specialists": ("collection.json", "specialists.json"),
    "label": ("targets.json", "data.json.gz", "shards/00000.bin", "ids.npy"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """verb -> its folder, stopped after three updates."""
    home, done = make_home(tmp_path_factory.mktemp("home")), {}

    def of(verb: str) -> Path:
        if verb not in done:
            done[verb] = home / verb
            with pytest.MonkeyPatch.context() as patch:
                stop_at(patch, 3)
                with pytest.raises(Interrupted):
                    VERBS[verb](home, done[verb])
        return done[verb]

    return of


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("verb", "file"), [(verb, file) for verb, files in FILES.items() for file in files])
def test_a_damaged_record_is_one_sentence(
    verb: str,
    file: str,
    damage: str,
    stopped: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(stopped(verb), at := tmp_path / "r")
    whole = (at / file).read_bytes() if (at / file).exists() else b"{}"
    (at / file).write_bytes(DAMAGE[damage](whole))
    code = main(["resume", str(at)])
    error = capsys.readouterr().err
    if code:
        assert code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert Path(file).name in error
        assert ";" in error, "it says what to do"
    else:  # what was damaged is written anew
        assert file in ("evaluation.json", "subsets/shots-1-draw-0.json", "ids.npy")


@pytest.mark.parametrize("damage", ["empty", "not UTF-8", "cut", "gone"])
@pytest.mark.parametrize("file", ["sha256", "safetensors"])
def test_a_damaged_checkpoint_is_skipped(
    file: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(at: Path) -> object:
        return understudy.train("digits", "mlp:8", run=at, epochs=1, checkpoint_every=0, **QUICK)

    train(tmp_path / "whole")
    stop_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        train(tmp_path / "r")
    monkeypatch.undo()
    newest = max((tmp_path / "r/checkpoints").glob(f"*.{file}"))
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes(DAMAGE[damage](newest.read_bytes()))
    if damage == "gone":
        understudy.resume(tmp_path / "r")
    else:
        with pytest.warns(UnderstudyWarning, match="is damaged"):
            understudy.resume(tmp_path / "r")
    assert weights(tmp_path / "r") == weights(tmp_path / "whole")


def test_a_page_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    run = understudy.train("digits", "mlp:8", run=tmp_path / "r", epochs=1, **QUICK)
    (run.path / "report.html").unlink()
    assert not run.finished
    assert understudy.resume(run.path).report.exists()


def test_half_written_files_of_a_killed_process_go(tmp_path: Path) -> None:
    run = understudy.train("digits", "mlp:8", run=tmp_path / "r", epochs=1, **QUICK)
    for name in (".run.json.99.partial", "checkpoints/.step-000000001.safetensors.99.partial"):
        (run.path / name).write_text("half")
    (run.path / ".mine.partial").write_text("mine")
    run.note(finished=False)
    understudy.resume(run.path)
    assert [path.name for path in run.path.rglob("*.partial")] == [".mine.partial"]


def test_cut_metrics_are_left_out(tmp_path: Path) -> None:
    run = understudy.train("digits", "mlp:8", run=tmp_path / "r", epochs=2, **QUICK)
    metrics = run.path / "metrics.jsonl"
    rows = run.epochs()
    with metrics.open("ab") as file:
        file.write(b'{"step": 3, "lo\n\xff\n[1]\n{"step": "x"}\n}\n')
    assert run.epochs() == rows
    run.note(finished=False)
    understudy.resume(run.path)
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == rows
