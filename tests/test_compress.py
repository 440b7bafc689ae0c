"""`compress`: a backbone and a folder of images in, a small model's files and a page out; stopped, budgeted, judged."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import understudy
from understudy import compress
from understudy.cli.app import main
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.verbs import CompressConfig
from understudy.data import merged_unlabeled, open_source
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import CompressionFacts
from understudy.pipeline.run_data import Overrides
from understudy.reporting.forecast import forecast_sentence
from understudy.runs.collection import RunCollection
from understudy.runs.run import Run
from understudy.verbs.compress import plan
from understudy.verbs.schedules import FEWEST, MOST, PASSES, default_steps, parse_budget, scheduled

SHORT: dict[str, Any] = {
    "teacher_steps": 12, "steps": 20, "crop_size": 16, "micro_batch": 64, "from_scratch": True, "workers": 0,
    "precision": "32",
}  # fmt: skip


def draw(folder: Path, name: str, count: int, seed: int = 0) -> None:
    """Noise with a color of its own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, len(name)])
    for k in range(count):
        pixels = rng.integers(0, 120, (24, 24, 3), dtype=np.uint8)
        pixels[..., ("red", "green", "blue").index(name)] += 110
        Image.fromarray(pixels).save(folder / f"{k}.jpg")


def facts_of(found: RunCollection) -> CompressionFacts:
    facts = found.facts
    assert isinstance(facts, CompressionFacts)
    return facts


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for part, count in (("train", 10), ("test", 5)):
        for name in ("blue", "green", "red"):
            draw(folder / part / name, name, count, seed=count)
    return folder


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunCollection:
    folder = tmp_path_factory.mktemp("runs") / "small"
    return compress(photos, "cnn:16-32", "cnn:4", run=folder, format=("onnx", "int8"), **SHORT)


def test_one_command_leaves_a_checked_file_and_a_page(made: RunCollection) -> None:
    assert made.finished
    assert list(made.runs) == ["teacher", "student"]
    assert {file.name for file in (made.path / "export").iterdir()} >= {
        "model.onnx", "model-int8.onnx", "predict.py", "README.md",
    }  # fmt: skip
    page = made.report.read_text()
    for word in ("teacher", "student alone", "student distilled", "model.onnx", "model-int8.onnx", "cnn:16-32"):
        assert word in page
    assert not re.search(r"https?://|<script", page)
    roles = [row.role for row in facts_of(made).rows]
    assert roles == ["teacher", "alone", "distilled"]


def test_teacher_and_student_see_the_same_mixed_crops(made: RunCollection) -> None:
    teacher, student = (made.runs[name].recipe for name in ("teacher", "student"))
    assert isinstance(teacher, TrainRecipe)
    assert isinstance(student, DistillRecipe)
    assert student.augmentation.model_dump() == teacher.augmentation.model_dump()
    assert (student.mixup, student.temperature, student.hard_weight) == (0.2, 1.0, 0.5)
    assert (teacher.optimizer.name, teacher.head, teacher.steps) == ("sgd", "zero", 12)
    assert teacher.calibrate


def test_signs_and_text_are_not_mirrored(photos: Path) -> None:
    """Neither for the teacher nor for the student."""
    for flip in (True, False):
        config = CompressConfig(
            data=str(photos), backbone=("cnn:4",), student="cnn:4", from_scratch=True, crop_size=16, flip=flip
        )
        recipes = plan(config, Overrides()).recipes
        assert {name: recipe.augmentation.flip for name, recipe in recipes.items()} == {
            "teacher": flip,
            "student": flip,
        }


def test_only_a_student_without_the_time_for_patience_is_helped_by_labels() -> None:
    examples, batch = 1_000, 100
    plain = DistillRecipe(data="digits", teacher=("t",), student="cnn:4", batch_size=batch, hard_weight=0, mixup=1)
    patient = PASSES * examples // batch
    for steps, mixup, hard in ((patient, 1.0, 0.0), (patient - 1, 0.2, 0.5)):
        recipe = scheduled(plain, steps, examples)
        assert (recipe.steps, recipe.mixup, recipe.hard_weight) == (steps, mixup, hard)


def test_the_files_say_what_the_student_says(made: RunCollection) -> None:
    onnx, int8 = facts_of(made).export.files
    assert (onnx.format, int8.format) == ("onnx", "int8")
    assert onnx.accuracy == facts_of(made).rows[-1].mean("accuracy")
    assert onnx.worst_difference < 1e-3


def test_the_same_command_again_says_that_it_is_done(made: RunCollection, photos: Path) -> None:
    with pytest.raises(UnderstudyError, match="is finished; its page is"):
        compress(photos, "cnn:16-32", "cnn:4", run=made.path, format=("onnx", "int8"), **SHORT)
    with pytest.raises(UnderstudyError, match="holds results of other options"):
        compress(photos, "cnn:16-32", "cnn:8", run=made.path, **SHORT)


def test_killed_in_a_stage_it_goes_on_there_and_ends_alike(made: RunCollection, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    flags = ["--crop-size", "16", "--micro-batch", "64", "--from-scratch", "--workers", "0", "--precision", "32"]
    command = [
        sys.executable, "-m", "understudy", "compress", str(photos), "--backbone", "cnn:16-32", "--student", "cnn:4",
        "--teacher-steps", "12", "--steps", "20", "--run", str(folder), "--checkpoint-every", "0", *flags,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ)
    student = folder / "student" / "checkpoints"
    deadline = time.monotonic() + 300
    while not (student.exists() and any(student.glob("*.safetensors"))):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    found = RunCollection(folder)
    if process.returncode:  # else it was done before the signal came
        assert process.returncode == 128 + signal.SIGTERM
        assert f"understudy resume {folder}" in " ".join(said.split())
        assert Run(folder / "teacher").finished
        assert not found.finished
        assert main(["resume", str(folder)]) == 0
    assert found.finished
    for name in ("distilled-0", "alone-0"):
        mine, whole = (one.runs["student"].models[name].read_bytes() for one in (found, made))
        assert mine == whole


def test_a_folder_that_can_be_resumed_has_all_its_stages(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = Run.open, []

    def second_fails(self: Run, *args: Any, **options: Any) -> None:
        opened.append(self)
        if len(opened) == 2:
            raise KeyboardInterrupt
        real(self, *args, **options)

    monkeypatch.setattr(Run, "open", second_fails)
    with pytest.raises(KeyboardInterrupt):
        compress(photos, "cnn:8", "cnn:4", run=tmp_path, format="onnx", **SHORT)
    monkeypatch.undo()
    assert not RunCollection(tmp_path).exists
    assert compress(photos, "cnn:8", "cnn:4", run=tmp_path, format="onnx", **SHORT).finished


def test_unlabeled_images_are_learned_from_beside_the_labeled(photos: Path, tmp_path: Path) -> None:
    for name in ("blue", "green", "red"):
        draw(tmp_path / "more" / name, name, 4, seed=9)
    for file in sorted((tmp_path / "more").rglob("*.jpg")):
        file.rename(tmp_path / "more" / f"{file.parent.name}-{file.name}")
    for name in ("blue", "green", "red"):
        (tmp_path / "more" / name).rmdir()
    found = compress(
        photos, "cnn:8", "cnn:4", transfer_set=tmp_path / "more", run=tmp_path / "run", format="onnx", **SHORT
    )
    assert list(found.runs) == ["teacher", "alone", "student"]
    data = found.runs["student"].facts.data
    assert data is not None
    assert data.transfer_examples == 30 + 12
    assert [row.role for row in facts_of(found).rows] == ["teacher", "alone", "distilled"]


def test_several_backbones_make_one_teacher(photos: Path, tmp_path: Path) -> None:
    found = compress(photos, ["cnn:8", "cnn:16"], "cnn:4", run=tmp_path, format="onnx", **SHORT)
    assert list(found.runs) == ["teacher-0", "teacher-1", "student"]
    rows = facts_of(found).rows
    assert [row.role for row in rows] == ["teacher", "alone", "distilled"]
    teachers = [found.runs[f"teacher-{i}"] for i in (0, 1)]
    assert rows[0].parameters == sum(run.facts.rows[0].parameters or 0 for run in teachers)


def test_a_budget_is_kept_to_and_says_what_more_would_buy(photos: Path, tmp_path: Path) -> None:
    own = {name: value for name, value in SHORT.items() if name not in ("steps", "teacher_steps")}
    found = compress(photos, "cnn:8", "cnn:4", budget="8s", run=tmp_path, format="onnx", **own)
    assert list(found.runs) == ["teacher", "pilot", "student"]
    pilot, student = (found.runs[name].recipe for name in ("pilot", "student"))
    assert pilot.steps == max(1, (student.steps or 0) // 8)
    spent = sum(run.duration for run in found.runs.values())
    assert spent < 60  # the machine may be slower than when it was measured
    forecast = facts_of(found).forecast
    assert forecast is not None
    assert forecast_sentence(forecast) in found.report.read_text()


@pytest.mark.parametrize(("change", "complaint"), [
    ({"budget": "1ms"}, "cannot parse budget '1ms': write a time"),
    ({"budget": "0.01s"}, "too short for one step of each stage: .* give at least"),
    ({"budget": "1m", "steps": 5}, "a budget chooses the steps"),
    ({"format": "tflite"}, "unknown format 'tflite'"),
    ({"lr": 0.1}, "compress has an unknown key 'lr'"),
])  # fmt: skip
def test_wrong_options(change: dict[str, Any], complaint: str, photos: Path, tmp_path: Path) -> None:
    own: dict[str, Any] = {"crop_size": 16, "micro_batch": 64, "from_scratch": True, "workers": 0}
    with pytest.raises(UnderstudyError, match=complaint):
        compress(photos, "cnn:8", "cnn:4", run=tmp_path / "run", **own, **change)
    assert not (tmp_path / "run" / "collection.json").exists()


def test_a_backbone_without_weights_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="no pre-trained weights"):
        understudy.compress(photos, "cnn:8", "cnn:4", run=tmp_path)


@given(st.integers(0, 50), st.integers(0, 59), st.integers(0, 59))
def test_budgets_are_read_as_they_are_said(hours: int, minutes: int, seconds: int) -> None:
    total = 3600 * hours + 60 * minutes + seconds
    text = f"{hours}h{minutes}m{seconds}s"
    if total == 0:
        with pytest.raises(UnderstudyError, match="longer than zero"):
            parse_budget(text)
    else:
        assert parse_budget(text) == total == parse_budget(total)


@given(st.integers(1, 10**8), st.integers(1, 4096))
def test_a_patient_student_has_its_passes_within_bounds(examples: int, batch: int) -> None:
    steps = default_steps(examples, batch)
    assert FEWEST <= steps <= MOST
    if FEWEST < steps < MOST:
        assert 0 <= steps * batch - PASSES * examples < batch


def test_two_sets_are_joined_without_labels_and_each_sample_keeps_one_id() -> None:
    digits = open_source("digits").train
    both = merged_unlabeled(digits, digits)
    assert len(both) == 2 * len(digits)
    assert len(both.ids.unique()) == len(both)
    assert both.targets is None
    assert merged_unlabeled(digits, digits).ids.equal(both.ids)


def test_sets_of_other_shapes_cannot_be_joined(photos: Path) -> None:
    with pytest.raises(UnderstudyError, match="resize both with --size"):
        merged_unlabeled(open_source("digits").train, open_source(photos).train)


def test_a_net_may_read_fewer_pixels_than_the_samples_have(tmp_path: Path) -> None:
    run = understudy.train("digits", "cnn:4", epochs=1, input_size=4, run=tmp_path)
    assert run.network("model-0").contract.shape == (1, 4, 4)
    assert json.loads((tmp_path / "evaluation.json").read_text())["rows"][0]["seeds"]
