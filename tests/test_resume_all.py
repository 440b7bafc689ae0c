"""One `resume` for every kind of folder, in Python and on the command line: it ends with the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import understudy
from understudy.cli import main
from understudy.errors import Interrupted, UnderstudyError
from understudy.runs import Run, RunCollection
from understudy.training.loop import Loop
from understudy.verbs import speech
from understudy.verbs.resume import COLLECTIONS

if TYPE_CHECKING:
    from stand_ins import Tones

QUICK: dict[str, Any] = {"precision": "32", "accelerator": "cpu"}


def images(n: int = 60, side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes of noise, one of them brighter."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    pixels = torch.randint(0, 180, (n, 1, side, side), generator=random) + 70 * labels[:, None, None, None]
    return pixels.byte(), labels


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tones: Tones) -> Path:
    """Photos in a folder, a teacher, and prepared speech."""
    from PIL import Image

    root = tmp_path_factory.mktemp("home")
    for number, (image, label) in enumerate(zip(*images(), strict=True)):
        folder = root / "photos" / ("train" if number % 5 else "test") / ("dark", "bright")[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    understudy.train("digits", "cnn:4", run=root / "teacher", epochs=1, **QUICK)
    understudy.train(str(root / "photos"), "cnn:4", run=root / "backbone", epochs=1, batch_size=16, **QUICK)
    speech.prepare(tones.corpus(root / "corpus", takes=10), root / "frames", states=3, mixtures=1)
    return root


Verb = Callable[[Path, Path], object]
VERBS: dict[str, Verb] = {
    "train": lambda home, at: understudy.train("digits", "mlp:8", run=at, epochs=2, **QUICK),
    "distill": lambda home, at: understudy.distill(
        "digits", home / "teacher", "mlp:8", run=at, epochs=2, method="crd+kd", **QUICK
    ),
    "compare": lambda home, at: understudy.compare(
        "digits", home / "teacher", "mlp:8", run=at, epochs=1, seeds=1, method=("kd", "dkd"), **QUICK
    ),
    "pretrain": lambda home, at: understudy.pretrain(
        str(home / "photos"), "cnn:4", run=at, epochs=4, size=12, batch_size=16, **QUICK
    ),
    "transfer": lambda home, at: understudy.transfer(
        str(home / "photos"), home / "backbone", run=at, steps=5, batch_size=16, crop_size=12, **QUICK
    ),
    "few shots": lambda home, at: understudy.few_shots(
        str(home / "photos"), home / "backbone", (1, 3), draws=2, run=at, steps=4, batch_size=4, crop_size=12, **QUICK
    ),
    "suite": lambda home, at: understudy.suite(
        [home / "photos", "digits"], home / "backbone", run=at, steps=4, batch_size=16, crop_size=8, **QUICK
    ),
    "compress": lambda home, at: understudy.compress(
        str(home / "photos"), home / "backbone", "mlp:4", run=at, steps=6, teacher_steps=4, crop_size=12,
        format="onnx", **QUICK,
    ),
    "specialists": lambda home, at: understudy.specialists(
        "digits", home / "teacher", run=at, clusters=2, epochs=1, **QUICK
    ),
    "speech": lambda home, at: speech.train(home / "frames", run=at, model="mlp:8", epochs=1, seeds=2, **QUICK),
}  # fmt: skip


def stop_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Have a real SIGTERM arrive after so many updates of all runs."""
    real, seen = Loop._update, []

    def counted(self: Loop, *arguments: Any) -> None:
        real(self, *arguments)
        seen.append(None)
        if len(seen) == update:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_update", counted)


def weights(folder: Path) -> dict[str, bytes]:
    files = folder.rglob("models/*.safetensors")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_stopped_is_resumed_by_its_folder(
    verb: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole" / "r", tmp_path / "stopped" / "r"
    VERBS[verb](home, whole)
    stop_at(monkeypatch, 3)
    with pytest.raises(Interrupted, match=f"continue with: understudy resume {stopped}"):
        VERBS[verb](home, stopped)
    monkeypatch.undo()
    if verb == "train":
        assert main(["resume", str(stopped)]) == 0
    else:
        done = understudy.resume(stopped)
        assert isinstance(done, RunCollection if (stopped / "collection.json").exists() else Run)
        assert done.finished
    assert weights(stopped) == weights(whole)
    files = {
        str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file() and "checkpoints" not in file.parts
    }
    assert files == {
        str(f.relative_to(stopped)) for f in stopped.rglob("*") if f.is_file() and "checkpoints" not in f.parts
    }
    with pytest.raises(UnderstudyError, match="is finished; its page is"):
        understudy.resume(stopped)


def test_every_collection_has_its_resume() -> None:
    from understudy.evaluation.facts import COLLECTION_FACTS

    assert COLLECTIONS.keys() == COLLECTION_FACTS.keys()


def test_what_is_no_folder_of_runs(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"is not a run folder: it has no recipe\.yaml"):
        understudy.resume(tmp_path)
    (tmp_path / "collection.json").write_text("{")
    with pytest.raises(UnderstudyError, match="cannot be read"):
        understudy.resume(tmp_path)
