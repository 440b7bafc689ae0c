"""Advice works: the command that a message suggests leads on, in a pair of what was typed and what is advised."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from PIL import Image

import understudy
from understudy.cli.app import main

DRY = "--epochs 1 --dry-run"
TRAIN = f"train digits --model mlp:8x1 {DRY}"
DISTILL = f"distill digits --teacher RUN --student mlp:8x1 {DRY}"

PAIRS = (
    (f"{TRAIN} --batch-size 100000", "pass --batch-size 1438 or less", f"{TRAIN} --batch-size 1438"),
    (f"{TRAIN} --batch-size 100000", "or --steps", f"{TRAIN} --batch-size 100000 --steps 1"),
    (f"{TRAIN} --patience 3", "set validation to 0.1", f"{TRAIN} --patience 3 --validation 0.1"),
    (f"{TRAIN} --class-bias 3", "as in 3=+3.5", f"{TRAIN} --class-bias 3=+3.5"),
    (f"{TRAIN} --accelerator cpu --devices 512", "pass --devices ", f"{TRAIN} --accelerator cpu --devices 1"),
    (f"{TRAIN} --accelerator mps", "pass --accelerator cpu --devices 1", f"{TRAIN} --accelerator cpu --devices 1"),
    (f"{TRAIN} --nodes 2", "leave out --nodes", TRAIN),
    (f"{TRAIN} --accelerator cpu --precision fp16", "pass --precision bf16 or 32", f"{TRAIN} --precision 32"),
    (f"train digitz --model mlp:8x1 {DRY}", "did you mean 'digits'", TRAIN),
    (f"train qqq --model mlp:8x1 {DRY}", "understudy datasets lists named ones", "datasets"),
    (f"train digits {DRY}", "understudy models lists models", "models"),
    (f"train digits --model mlp:8x1?dropout {DRY}", "write dropout=VALUE",
     f"train digits --model mlp:8x1?dropout=0.1 {DRY}"),
    (f"train digits --model mlp:8 --test-size 9 {DRY}", "leave out --test-size", f"train digits --model mlp:8 {DRY}"),
    (f"train digits --model cnn:4 --resize 8 {DRY}", "crop_size of at most 8",
     f"train digits --model cnn:4 --resize 8 --crop-size 8 {DRY}"),
    (f"train --config distill.yaml {DRY}", "use: understudy distill", f"distill --config distill.yaml {DRY}"),
    (f"{DISTILL} --hard-weight 2", "at most 1", f"{DISTILL} --hard-weight 1"),
    (f"{DISTILL} --method ''", "understudy methods lists what there is", "methods"),
    (f"{DISTILL} --student-taps module.1", "leave it out", DISTILL),
    (f"{DISTILL} --objective kd:temprature=3", "did you mean 'temperature'", f"{DISTILL} --objective kd:temperature=3"),
    ("transfer digits --backbone mlp:8 --steps 1 --dry-run", "pass --from-scratch",
     "transfer digits --backbone cnn:4 --steps 1 --crop-size 8 --batch-size 8 --from-scratch --dry-run"),
    ("evaluate RUN digits --split validation", "pass --split train or --split test",
     "evaluate RUN digits --split test"),
    ("predict RUN", "write understudy predict RUN photo.jpg", "predict RUN photo.png"),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return understudy.train("digits", "mlp:8x1", epochs=1, run=tmp_path_factory.mktemp("teacher") / "run").path


@pytest.mark.parametrize(
    ("mistake", "advice", "advised"),
    [pytest.param(*pair, marks=() if n % 4 == 0 else pytest.mark.campaign) for n, pair in enumerate(PAIRS)],
)
def test_advice_works(
    mistake: str, advice: str, advised: str, run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("distill.yaml").write_text(f"kind: distill\ndata: digits\nteacher: [{run}]\nstudent: mlp:8x1\n")
    Image.new("RGB", (8, 8)).save("photo.png")
    assert main(shlex.split(mistake.replace("RUN", str(run)))) == 2
    assert advice in capfd.readouterr().err.replace(str(run), "RUN")
    assert main(shlex.split(advised.replace("RUN", str(run)))) == 0
