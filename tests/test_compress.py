"""`compress`: a backbone and a folder of images in, a small model's files and a page out; stopped, budgeted, judged."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import understudy
from resumable import stop_at
from understudy import compress
from understudy.cli.app import main
from understudy.compression.budget import parse_amount, parse_budget, parse_latency
from understudy.compression.candidates import Limits
from understudy.compression.outline import Outline, Speeds, batch_for, default_passes, draft, fitted
from understudy.compression.prepare import reduction_of
from understudy.compression.race import Entrant, field_of, rounds, survivors
from understudy.compression.recipes import default_steps
from understudy.compression.teacher import Verdict
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.verbs import CompressConfig
from understudy.data import ArraySource, fraction, only_classes, open_source, with_unlabeled
from understudy.data.fingerprint import Fingerprint, differences
from understudy.data.parts import check_trained
from understudy.errors import Interrupted, UnderstudyError
from understudy.evaluation.facts import CompressionFacts
from understudy.files import sha256
from understudy.models import InputContract, build, load_network
from understudy.pipeline.run_data import Overrides
from understudy.runs.collection import RunCollection
from understudy.runs.run import Run
from understudy.teachers.store import read_manifest, shards_of
from understudy.verbs.compress import plan

pytestmark = pytest.mark.usefixtures("cached_operators")
SHORT: dict[str, Any] = {"teacher_steps": 12, "steps": 40, "workers": 0, "precision": "32", "threads": 1}


def short(**changes: Any) -> dict[str, Any]:
    return SHORT | changes


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
def backbone(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows the classes, not well."""
    run = understudy.train(
        photos, "cnn:16-32", epochs=6, batch_size=10, workers=0, precision="32", threads=1,
        run=tmp_path_factory.mktemp("backbone") / "run",
    )  # fmt: skip
    return run.path


@pytest.fixture(scope="module")
def made(photos: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunCollection:
    folder = tmp_path_factory.mktemp("runs") / "small"
    return compress(photos, backbone, "cnn:4", run=folder, format=("onnx", "int8"), **SHORT)


def test_one_command_leaves_checked_files_and_a_page(made: RunCollection) -> None:
    assert made.finished
    assert list(made.runs) == ["backbone", "teacher", "student"]
    assert {file.name for file in (made.path / "export").iterdir()} >= {
        "model.onnx", "model-int8.onnx", "predict.py", "README.md",
    }  # fmt: skip
    page = made.report.read_text()
    for word in ("teacher", "student alone", "student distilled", "model.onnx", "model-int8.onnx", "backbone"):
        assert word in page
    assert not re.search(r"https?://|<script", page)
    assert [row.role for row in facts_of(made).rows] == ["teacher", "alone", "distilled"]


def test_the_backbone_is_scored_before_anything_is_trained(made: RunCollection, backbone: Path) -> None:
    (given,) = facts_of(made).given
    assert set(given.validation) == {"as given", "linear probe", "k-NN"}
    (kept,) = given.accuracy
    assert given.validation[kept] == max(given.validation["as given"], given.validation["linear probe"])
    assert made.runs["backbone"].recipe.steps == 0
    frozen, start = (load_network(folder / "models" / "model-0.safetensors") for folder in
                     (made.path / "backbone", backbone))  # fmt: skip
    heads = tuple(f"module.{path}" for path in frozen.head_paths)
    body = {name: x for name, x in frozen.state_dict().items() if not name.startswith(heads)}
    assert all(torch.equal(x, start.state_dict()[name]) for name, x in body.items())


def test_the_better_of_frozen_and_fine_tuned_teaches(made: RunCollection) -> None:
    verdict = made.record["judged"]["teacher"]
    assert verdict["sentence"].startswith("The fine-tuned" if verdict["tuned"] else "The frozen")
    student = made.runs["student"].recipe
    assert isinstance(student, DistillRecipe)
    assert student.teacher == (str(made.path / ("teacher" if verdict["tuned"] else "backbone")),)


@pytest.mark.parametrize(("frozen", "tuned", "kept"), [(0.9, 0.8, False), (0.8, 0.9, True), (0.9, 0.9, False)])
def test_a_fine_tuned_backbone_has_to_be_better(frozen: float, tuned: float, kept: bool) -> None:
    verdict = Verdict(frozen, tuned, 100)
    assert verdict.is_tuned is kept
    assert str(verdict).startswith("The fine-tuned" if kept else "The frozen")


def test_teacher_and_student_see_the_same_crops(made: RunCollection) -> None:
    teacher, student = (made.runs[name].recipe for name in ("teacher", "student"))
    assert isinstance(teacher, TrainRecipe)
    assert isinstance(student, DistillRecipe)
    assert student.augmentation.model_dump() == teacher.augmentation.model_dump()
    assert (student.mixup, student.temperature, student.method) == (0.0, 2.0, ("pkt+cosine+kd",))
    assert (teacher.steps, teacher.validation) == (12, 0.15)


def test_signs_and_text_are_not_mirrored(photos: Path) -> None:
    for flip in (True, False):
        config = CompressConfig(data=str(photos), backbone=("cnn:4",), student=("cnn:4",), from_scratch=True, flip=flip)
        assert plan(config, Overrides()).recipes["student"].augmentation.flip == flip


def test_the_files_say_what_the_student_says(made: RunCollection) -> None:
    onnx, int8 = facts_of(made).export.files
    assert (onnx.format, int8.format) == ("onnx", "int8")
    assert onnx.accuracy == facts_of(made).rows[-1].mean("accuracy")
    assert onnx.worst_difference < 1e-3


def test_the_same_command_again_says_that_it_is_done(made: RunCollection, photos: Path, backbone: Path) -> None:
    with pytest.raises(UnderstudyError, match="is finished; its page is"):
        compress(photos, backbone, "cnn:4", run=made.path, format=("onnx", "int8"), **SHORT)
    with pytest.raises(UnderstudyError, match="holds results of other options"):
        compress(photos, backbone, "cnn:8", run=made.path, **SHORT)


@pytest.mark.parametrize("stage", ["teacher", "targets", "student"])
def test_stopped_in_a_stage_it_goes_on_there_and_ends_alike(
    stage: str, made: RunCollection, photos: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, answers = tmp_path / "small", len(shards_of(read_manifest(made.path / "targets")))
    begun = {"teacher": 5, "targets": SHORT["teacher_steps"] + 1, "student": SHORT["teacher_steps"] + answers + 5}
    stop_at(monkeypatch, begun[stage])
    with pytest.raises(Interrupted, match=f"understudy resume {folder}"):
        compress(photos, backbone, "cnn:4", run=folder, format="torch", **SHORT)
    monkeypatch.undo()
    stages = list(begun)
    assert [name for name in stages if (folder / name).exists()] == stages[: stages.index(stage) + 1]
    assert not RunCollection(folder).finished
    assert main(["resume", str(folder)]) == 0
    found = RunCollection(folder)
    assert found.finished
    for name in ("distilled-0", "alone-0"):
        mine, whole = (one.runs["student"].models[name].read_bytes() for one in (found, made))
        assert mine == whole


def test_a_student_whose_int8_file_loses_is_trained_with_the_rounding(
    photos: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.compression.files._TOLERATED", -1.0)  # whatever it loses is too much
    options = short(teacher_steps=0, baseline=False)
    found = compress(photos, backbone, "cnn:4", run=tmp_path / "run", format=("onnx", "int8"), **options)
    assert list(found.runs)[-1] == "int8"
    recipe = found.runs["int8"].recipe
    assert isinstance(recipe, DistillRecipe)
    assert recipe.qat
    described = json.loads((found.path / "export/export.json").read_text())
    assert described["weights"] == sha256(found.runs["int8"].models["distilled-0"])
    assert [one.format for one in facts_of(found).export.files] == ["onnx", "int8"]


def test_unlabeled_images_are_learned_from_beside_the_labeled(photos: Path, backbone: Path, tmp_path: Path) -> None:
    for name in ("blue", "green", "red"):
        draw(tmp_path / "more" / name, name, 4, seed=9)
    for file in sorted((tmp_path / "more").rglob("*.jpg")):
        file.rename(tmp_path / "more" / f"{file.parent.name}-{file.name}")
    for name in ("blue", "green", "red"):
        (tmp_path / "more" / name).rmdir()
    found = compress(
        photos, backbone, "cnn:4", transfer_set=tmp_path / "more", run=tmp_path / "run", format="torch",
        **short(teacher_steps=0),
    )  # fmt: skip
    assert list(found.runs) == ["backbone", "alone", "student"]
    data = found.runs["student"].facts.data
    assert data is not None
    assert data.transfer_examples == 30 + 12
    assert [row.role for row in facts_of(found).rows] == ["teacher", "alone", "distilled"]


def test_several_backbones_make_one_teacher(photos: Path, backbone: Path, tmp_path: Path) -> None:
    found = compress(photos, [backbone, backbone], "cnn:4", run=tmp_path, format="torch", **short(teacher_steps=0))
    assert list(found.runs) == ["backbone-0", "backbone-1", "student"]
    rows = facts_of(found).rows
    assert [row.role for row in rows] == ["teacher", "alone", "distilled"]
    backbones = [found.runs[f"backbone-{i}"] for i in (0, 1)]
    assert rows[0].parameters == sum(run.facts.rows[0].parameters or 0 for run in backbones)


def test_a_teacher_that_knows_the_classes_teaches_as_it_is(photos: Path, backbone: Path, tmp_path: Path) -> None:
    found = compress(photos, (), "cnn:4", teacher=[str(backbone)], run=tmp_path, format="torch", **SHORT)
    assert list(found.runs) == ["student"]
    teacher, known = facts_of(found).rows[0], Run(backbone).facts.rows[0]
    assert teacher.mean("accuracy") == known.mean("accuracy")


def test_students_and_methods_race_and_the_best_on_the_validation_part_goes_on(
    photos: Path, backbone: Path, tmp_path: Path
) -> None:
    found = compress(
        photos, backbone, ["cnn:2", "cnn:8-16"], method=["kd", "dist"], run=tmp_path, format="torch",
        **short(teacher_steps=0),
    )  # fmt: skip
    race = found.record["race"]
    rounds_run = {name.split("-")[1] for name in race}
    assert rounds_run == {"1", "2"}
    last = {name: one for name, one in race.items() if name.startswith("round-2")}
    best = max(last.values(), key=lambda one: one["accuracy"])
    student = found.runs["student"].recipe
    assert isinstance(student, DistillRecipe)
    assert race[max(last, key=lambda name: last[name]["accuracy"])]["accuracy"] == best["accuracy"]
    assert (student.student, student.method) in [
        (one["student"], (one["method"],)) for one in last.values() if one["accuracy"] == best["accuracy"]
    ]


def test_without_a_baseline_there_is_one_student_and_no_claim(photos: Path, backbone: Path, tmp_path: Path) -> None:
    found = compress(
        photos, backbone, "cnn:2", baseline=False, run=tmp_path, format="torch", **short(teacher_steps=0)
    )  # fmt: skip
    assert [row.role for row in facts_of(found).rows] == ["teacher", "distilled"]
    assert found.finished


def test_where_no_student_is_named_the_most_accurate_on_the_validation_part_is_handed_over(
    photos: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.compression.prepare.names_for", lambda config, pixels: ("cnn:2",))
    found = compress(photos, backbone, run=tmp_path, format="onnx", **short(teacher_steps=0, steps=2))
    scores, handed = found.record["scores"], found.record["handed"]
    assert set(scores) == {"student", "backbone"}
    assert scores[handed] == max(scores.values())
    chosen = facts_of(found).chosen
    assert {one.role for one in chosen} == {"student" if handed == "student" else "backbone"}
    (file,) = facts_of(found).export.files
    assert file.accuracy == chosen[0].accuracy
    assert {one.role for one in facts_of(found).candidates} == {"student", "backbone"}


def test_what_to_know_before_is_said(photos: Path, backbone: Path, tmp_path: Path) -> None:
    for name, count in (("green", 3), ("red", 8)):
        draw(tmp_path / "few" / "train" / name, name, count)
        draw(tmp_path / "few" / "test" / name, name, 2)
    config = CompressConfig(data=str(tmp_path / "few"), backbone=(str(backbone),), student=("cnn:64-64",))
    notes = plan(config, Overrides()).notes
    assert any("class green has fewer than 5 training images" in note for note in notes)
    assert any("cnn:64-64 is larger than its teacher" in note for note in notes)
    several = CompressConfig(data=str(tmp_path / "few"), backbone=(str(backbone),), student=("cnn:2", "cnn:4"))
    with pytest.raises(UnderstudyError, match=r"class green of .* has 3 training images, too few to hold some out"):
        plan(several, Overrides())


def test_a_budget_is_kept_to_and_spares_the_tuning_of_a_backbone_that_needs_none(
    photos: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.compression.outline.FEW_SHOTS", 1)  # else there are too few images to plan it
    own = {name: value for name, value in SHORT.items() if name not in ("steps", "teacher_steps")}
    found = compress(photos, backbone, "cnn:4", budget="60s", run=tmp_path, format="torch", **own)
    assert any("epochs of fine-tuning" in note for note in found.notes)
    assert list(found.runs) == ["backbone", "pilot", "student"]
    assert facts_of(found).teacher_kept.startswith("The frozen backbone teaches: with 100.0% in cross-validation")
    spent = found.record["spent"]
    assert spent < 2 * 60  # a busy machine may be slower than when it was measured
    assert sum(facts_of(found).seconds.values()) <= spent


@pytest.mark.parametrize(("change", "complaint"), [
    ({"budget": "1ms"}, "cannot parse budget '1ms': write a time"),
    ({"budget": "0.01s"}, "too short for a pass of the student .* give at least"),
    ({"budget": "1m", "steps": 5}, "a budget chooses the steps"),
    ({"format": "tflite"}, "unknown format 'tflite'"),
    ({"lr": 0.1}, "compress has an unknown key 'lr'"),
    ({"latency": "fast"}, "cannot parse latency 'fast': write a time, as in 5ms"),
    ({"latency": "0.0001ms"}, "no candidate is within the limits; cnn:4 at 24 pixels in .* comes nearest"),
    ({"max_size": "1B"}, "no candidate is within the limits"),
    ({"device_latency": 3.0}, "device_latency is for a limit of latency; give --latency too"),
    ({"teacher": "runs/t"}, "a teacher takes the place of a backbone"),
])  # fmt: skip
def test_wrong_options(change: dict[str, Any], complaint: str, photos: Path, tmp_path: Path) -> None:
    own: dict[str, Any] = {"from_scratch": True, "workers": 0}
    with pytest.raises(UnderstudyError, match=complaint):
        compress(photos, "cnn:8", "cnn:4", run=tmp_path / "run", **own, **change)
    assert not (tmp_path / "run" / "collection.json").exists()


def test_a_backbone_without_weights_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="no pre-trained weights"):
        understudy.compress(photos, "cnn:8", "cnn:4", run=tmp_path)


def outline(**changes: Any) -> Outline:
    values: dict[str, Any] = {"view_size": 224, "teacher_size": 224, "student_size": 224, "scored": 1000}
    values |= {"views": 32, "tuned_epochs": 20, "examples": 1000, "batch_size": 64} | changes
    return Outline(**values)


@given(st.floats(1e-4, 0.1), st.floats(1e-4, 0.1), st.floats(120, 1e5))
def test_an_outline_keeps_within_its_budget(answer: float, update: float, budget: float) -> None:
    """By its own speeds; where less than a pass of the student would fit, it says so."""
    config, speeds, n = CompressConfig(), Speeds(answer, 128, update, 128), 1000
    if 3 * n * (speeds.answer_at(96) + speeds.update_at(96)) > 0.9 * budget - 35:
        with pytest.raises(UnderstudyError, match="is too short"):
            fitted(outline(), config, speeds, budget / 10, members=2, classes=10)
        return
    made = fitted(outline(), config, speeds, budget, members=2, classes=10)
    answers = (made.scored + n * (made.views + 6 * made.tuned_epochs)) * speeds.answer_at(made.teacher_size)
    one_pass = 2 * n * speeds.update_at(made.student_size)
    assert answers + one_pass <= budget
    assert made.student_size <= made.teacher_size <= 224
    assert 1 <= made.views <= 32
    assert 200 <= made.scored <= n


@given(st.floats(600, 1e4))
def test_more_time_means_no_smaller_images(budget: float) -> None:
    config, speeds = CompressConfig(), Speeds(0.01, 128, 0.005, 128)
    less, more = (fitted(outline(), config, speeds, b, 2, 10) for b in (budget, 2 * budget))
    assert more.teacher_size >= less.teacher_size


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_halving_keeps_the_best_and_ends_with_one(accuracy: list[float]) -> None:
    field = [Entrant(f"net-{i}", "kd", 1.0) for i in range(len(accuracy))]
    known = dict(zip(field, accuracy, strict=True))
    best, count = max(accuracy), 0
    while len(field) > 1:
        field, count = survivors(field, [known[one] for one in field]), count + 1
    assert known[field[0]] == best
    assert count == rounds(len(accuracy))


def test_who_runs_depends_on_the_time() -> None:
    students = [("small", 0.001), ("large", 0.01)]
    assert len(field_of(students, ("kd", "dist"), 1e6, 100, 3)) == 3
    assert [one.student for one in field_of(students, ("kd",), 0.001, 100, 3)] == ["small"]


def test_a_slower_device_lowers_the_limit_of_latency() -> None:
    config = CompressConfig(data="digits", backbone=("cnn:4",), latency="6ms", device_latency=3)
    assert Limits.of(config).latency_ms == 2
    assert Limits.of(config).to_json() == {"latency_ms": 2, "slower": 3}


@given(st.floats(0.01, 1e4))
def test_limits_are_read_as_they_are_said(value: float) -> None:
    text = f"{value:.4f}"
    assert parse_latency(f"{text}ms") == parse_latency(float(text)) == float(text)
    assert parse_amount(f"{text}MB", "size") == float(text) * 10**6


@given(st.integers(0, 50), st.integers(0, 59), st.integers(0, 59))
def test_budgets_are_read_as_they_are_said(hours: int, minutes: int, seconds: int) -> None:
    total = 3600 * hours + 60 * minutes + seconds
    text = f"{hours}h{minutes}m{seconds}s"
    if total == 0:
        with pytest.raises(UnderstudyError, match="longer than zero"):
            parse_budget(text)
    else:
        assert parse_budget(text) == total == parse_budget(total)


@given(st.integers(2, 10**7))
def test_without_a_budget_a_student_has_200_passes_within_bounds(examples: int) -> None:
    shown = default_passes(examples) * examples
    assert shown * (1 + 1e-9) >= 64_000
    assert shown <= 3_200_000 * (1 + 1e-9)
    made = outline(examples=examples, batch_size=batch_for(shown))
    assert made.batch_size in (32, 64)
    assert 0 <= default_steps(made) * made.batch_size - shown <= made.batch_size


@pytest.mark.parametrize(
    ("pixels", "reduction", "size"), [(32, 32, 64), (64, 32, 64), (128, 32, 128), (32, 4, 32), (32, 0, 32)]
)
def test_small_images_are_enlarged_for_a_student_that_would_leave_too_little_of_them(
    pixels: int, reduction: int, size: int
) -> None:
    images, ids = torch.zeros(4, 3, pixels, pixels, dtype=torch.uint8), torch.arange(4)
    source = ArraySource("small", ("a", "b"), ids, ids % 2, (3, pixels, pixels), inputs=images)
    config = CompressConfig(data="small", backbone=("timm:resnet18",))
    assert draft(config, source, 224, reduction, resizable=True).student_size == size


@pytest.mark.parametrize(("spec", "reduction"), [("timm:mobilenetv3_small_050", 32), ("cnn:4-8", 2), ("mlp:8", 0)])
def test_by_how_much_a_student_reduces_images(spec: str, reduction: int) -> None:
    contract = InputContract((3, 64, 64), (0.5,) * 3, (0.25,) * 3, ("a", "b"))
    assert reduction_of(build(spec, contract)) == reduction


def test_of_two_sets_joined_the_first_keeps_its_labels_and_each_sample_has_one_id() -> None:
    digits = open_source("digits").train
    assert digits.targets is not None
    both = with_unlabeled(digits, digits)
    assert len(both) == 2 * len(digits)
    assert len(both.ids.unique()) == len(both)
    assert both.targets is not None
    assert both.targets.equal(torch.cat([digits.targets, torch.full_like(digits.targets, -1)]))
    assert with_unlabeled(digits, digits).ids.equal(both.ids)
    assert (digits.labeled, both.labeled) == (True, False)
    of_few = both.subset(fraction(both, 0.1, seed=0))
    assert of_few.targets is not None
    assert (of_few.targets < 0).sum() == round(0.1 * len(digits))
    threes = both.subset(only_classes(both, ["3"]))
    assert threes.targets is not None
    assert threes.targets.unique().tolist() == [-1, 3]
    assert check_trained(both) == []


def test_labels_that_samples_gained_are_told_from_those_that_they_lost() -> None:
    digits = open_source("digits").train.subset(torch.arange(20))
    both = with_unlabeled(digits, digits)
    assert both.targets is not None
    assert differences(Fingerprint.of(both), both) == []
    fewer = replace(both, targets=both.targets.index_fill(0, torch.tensor([1]), -1))
    (found,) = differences(Fingerprint.of(both), fewer)
    assert found.startswith("1 sample relabeled")
    assert found.endswith(f"{digits.classes[int(both.targets[1])]}, now no label)")
    (found,) = differences(Fingerprint.of(fewer), both)
    assert "no label, now" in found


def test_sets_of_other_shapes_cannot_be_joined(photos: Path) -> None:
    with pytest.raises(UnderstudyError, match="resize both with --size"):
        with_unlabeled(open_source("digits").train, open_source(photos).train)


def test_a_net_may_read_fewer_pixels_than_the_samples_have(tmp_path: Path) -> None:
    run = understudy.train("digits", "cnn:4", epochs=1, input_size=4, run=tmp_path)
    assert run.network("model-0").contract.shape == (1, 4, 4)
    assert json.loads((tmp_path / "evaluation.json").read_text())["rows"][0]["seeds"]
