"""The experiments on representations: what they would run and probe, and small ones run to the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import understudy
from understudy.cli.app import main
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.yaml import recipe_from
from understudy.data import ArraySource, Splits
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import Probe, ProbedSet
from understudy.models import Network
from understudy.papers import EXPERIMENTS, crd
from understudy.papers.crd_probes import held_out
from understudy.papers.experiment import Bench
from understudy.runs.run import Run
from understudy.verbs import probe as probing

if TYPE_CHECKING:
    from stand_ins import FakeRuns


def made_up_set(name: str, classes: int) -> Splits:
    ids = torch.arange(2 * classes)
    names = tuple(f"class {i}" for i in range(classes))
    return Splits(ArraySource(name, names, ids, ids % classes, (1, 1, 1), inputs=torch.zeros(2 * classes, 1, 1, 1)))


@dataclass
class Desk:
    """Stands in for the sets, the runs and the probes, and remembers what was asked of them."""

    runs: FakeRuns
    opened: dict[str, int | None] = field(default_factory=dict)
    probed: list[tuple[Sequence[str], dict[str, Any]]] = field(default_factory=list)

    def open_source(
        self, data: str, *, root: Path | None = None, download: bool = False, size: int | None = None
    ) -> Splits:
        self.opened[data] = size
        return made_up_set(data, 20)

    def probe(self, target: Path | Mapping[str, Network], data: Splits | str, **options: Any) -> list[ProbedSet]:
        if isinstance(target, Mapping):
            names = list(target)
        else:
            recipe = self.runs.recipes[target]
            assert isinstance(recipe, DistillRecipe)
            groups = ["alone", *(f"distilled-{method}" for method in recipe.method)]
            names = ["teacher-0", *(f"{group}-{seed}" for group in groups for seed in range(recipe.seeds))]
        self.probed.append((names, {"data": data, **options}))
        probes = {
            name: Probe(accuracy=0.5 + 0.01 * i, errors=1, validation_accuracy=0.5, weight_decay=0.1, width=8)
            for i, name in enumerate(names)
        }
        return [ProbedSet(data="it", classes=10, train=100, test=100, probes=probes)]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, fake_runs: FakeRuns) -> Desk:
    made_up = Desk(fake_runs)
    monkeypatch.setattr("understudy.data.open_source", made_up.open_source)
    monkeypatch.setattr(probing, "probe", made_up.probe)
    return made_up


def table(name: str, bench: Bench) -> list[tuple[str, ...]]:
    outcome = EXPERIMENTS[name].compare(bench)
    return [outcome.columns, *(tuple(map(str, line)) for line in outcome.lines)]


# ---- what transfers


def test_the_papers_sets_and_figures(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "sets/tiny-imagenet-200").mkdir(parents=True)
    found = table("crd-transfer", Bench(tmp_path / "x", data_root=str(tmp_path / "sets")))
    tiny = "tiny-imagenet-200"
    assert found[0] == ("net", "stl10, paper", "stl10, here", f"{tiny}, paper", f"{tiny}, here")
    assert [line[0] for line in found[1:]] == ["teacher", "alone", "kd", "crd", "crd+kd"]
    assert [line[1] for line in found[1:]] == ["68.6%", "69.7%", "70.9%", "71.6%", "72.2%"]
    assert [line[3] for line in found[1:]] == ["31.5%", "33.7%", "33.9%", "35.6%", "35.5%"]
    assert found[1][2] == "50.00%"
    assert found[2][2] == "52.00 ± 1.00%", "of three seeds"
    assert desk.opened == {"stl10": 32, str(tmp_path / "sets" / tiny): 32}
    uses_teacher, run = desk.runs.recipes.values()
    assert isinstance(uses_teacher, TrainRecipe)
    assert isinstance(run, DistillRecipe)
    assert (uses_teacher.model, run.student) == ("cifar:wrn_40_2", "cifar:wrn_16_2")
    assert {recipe.data for recipe in (uses_teacher, run)} == {"cifar100"}
    assert (run.method, run.baseline, run.seeds, run.epochs) == (("kd", "crd", "crd+kd"), True, 3, 240)
    assert not run.omit_classes
    assert all(asked["teacher"] == [Path(run.teacher[0])] for _, asked in desk.probed)


def test_classes_that_nobody_saw(desk: Desk, tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, data="photos", size=32, chosen_epochs=24, held_out=("4",), pairs=("vgg8:resnet8",), probes=("x/y",)
    )
    found = table("crd-transfer", bench)
    assert found[0] == ("net", "4 held-out classes", "y")
    held = ("class 0", "class 5", "class 10", "class 15")
    assert {recipe.omit_classes for recipe in desk.runs.recipes.values()} == {held}
    assert [asked["only_classes"] for _, asked in desk.probed] == [held, ()]
    assert desk.opened == {"photos": 32, "x/y": 32}
    assert {recipe.epochs for recipe in desk.runs.recipes.values()} == {crd.TEACHER_EPOCHS, 24}
    notes = " ".join(EXPERIMENTS["crd-transfer"].compare(bench).notes)
    assert "24 epochs of the paper's 240" in notes
    assert "class 0, class 5, class 10, class 15" in notes


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        (("2",), ("class 0", "class 3")),
        (("class 1", "4"), ("class 1", "4")),
    ],
)
def test_held_out_by_number_and_by_name(asked: tuple[str, ...], held: tuple[str, ...]) -> None:
    assert held_out(made_up_set("it", 6), asked) == held


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("1",), "it has 6 classes; hold out at least two"),
        (("5",), "leave at least two"),
        (("class 1",), "hold out at least two"),
        (("class 1", "class 9"), "no class 'class 9'"),
    ],
)
def test_what_cannot_be_held_out(asked: tuple[str, ...], says: str) -> None:
    with pytest.raises(UnderstudyError, match=says):
        held_out(made_up_set("it", 6), asked)


def test_sets_are_fetched_where_asked_and_recipes_do_not_say(desk: Desk, tmp_path: Path) -> None:
    EXPERIMENTS["crd-cross-modal"].compare(Bench(tmp_path / "x"))
    assert not desk.opened, "runs open their own"
    EXPERIMENTS["crd-cross-modal"].compare(Bench(tmp_path / "x", download=True))
    assert set(desk.opened) == {"stl10", "stl10-unlabeled"}
    assert not any(recipe.download for recipe in desk.runs.recipes.values())


def test_a_set_that_is_not_there_is_said_before_anything_is_trained(tmp_path: Path, desk: Desk) -> None:
    with pytest.raises(UnderstudyError, match=r"TinyImageNet is not in .* --probe stl10"):
        EXPERIMENTS["crd-transfer"].run(Bench(tmp_path, data_root=str(tmp_path)))
    assert not desk.runs.recipes


SMALL = ("--quick", "--epochs", "1", "--seeds", "1", "--pair", "resnet8:resnet8")


def test_transfer_for_real(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "crd-transfer", *SMALL, "--data", "digits", "--held-out", "4", "--run", str(tmp_path)]
    assert main(words) == 0
    results = json.loads((tmp_path / "results-quick.json").read_text())
    assert results["command"].endswith("--held-out 4")
    accuracies = [line["4 held-out classes"]["mean"] for line in results["lines"]]
    assert len(accuracies) == 5
    assert all(25 < accuracy <= 100 for accuracy in accuracies)
    (one,) = understudy.probe(tmp_path / "resnet8-resnet8-quick", "digits", only_classes=["0", "2", "5", "7"])
    assert 100 * one.mean("distilled-crd") == pytest.approx(accuracies[3]), "the table's numbers are the probe's"
    spent = Run(tmp_path / "resnet8-resnet8-quick").duration
    assert main(words) == 0
    assert Run(tmp_path / "resnet8-resnet8-quick").duration == spent, "what is finished is not trained again"
    capsys.readouterr()


# ---- across modalities


@pytest.mark.parametrize("data", [None, "photos"])
def test_who_sees_what_and_who_has_labels(data: str | None, desk: Desk, tmp_path: Path) -> None:
    found = table("crd-cross-modal", Bench(tmp_path, data=data, chosen_epochs=120))
    assert [line[1:3] for line in found[1:]] == [
        ("luminance", "yes"), ("chrominance", "yes"), ("chrominance", "no"), ("chrominance", "no"),
        ("chrominance", "no"),
    ]  # fmt: skip
    sight, color, uses_teacher = desk.runs.recipes.values()
    assert isinstance(sight, TrainRecipe)
    assert isinstance(color, TrainRecipe)
    assert isinstance(uses_teacher, DistillRecipe)
    assert (sight.modality, sight.seeds, color.modality, color.seeds) == ("luminance", 1, "chrominance", 3)
    assert (uses_teacher.teacher_modality, uses_teacher.student_modality, uses_teacher.seeds) == (
        "luminance",
        "chrominance",
        3,
    )
    assert (uses_teacher.method, uses_teacher.hard_weight, uses_teacher.baseline) == (
        ("crd:exclude=sample", "kd"),
        0,
        False,
    )
    assert uses_teacher.transfer_set == (None if data else "stl10-unlabeled")
    assert {recipe.data for recipe in desk.runs.recipes.values()} == {data or "stl10"}
    assert {recipe.epochs for recipe in desk.runs.recipes.values()} == {120}
    assert all(recipe_from(recipe.model_dump(mode="json")) == recipe for recipe in desk.runs.recipes.values())
    ((names, asked),) = desk.probed
    assert asked["data"] == (data or "stl10")
    assert set(names) == {"teacher-0", *(f"{g}-{k}" for g in ("supervised", "crd", "kd", "random") for k in range(3))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of small color images, told apart by their brightness and by their hue."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 32), ("test", 8)):
        for index, hue in enumerate(((40, 20, 20), (60, 110, 60), (140, 140, 200))):
            (tmp_path / "photos" / part / "abc"[index]).mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 60, (8, 8, 3)) + np.array(hue)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                    tmp_path / "photos" / part / "abc"[index] / f"{i}.png"
                )
    return tmp_path / "photos"


def test_luminance_teaches_chrominance_for_real(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs"
    assert main(["reproduce", "crd-cross-modal", *SMALL, "--data", str(folder), "--run", str(run)]) == 0
    results = json.loads((run / "results-quick.json").read_text())
    assert [line["trained on labels"] for line in results["lines"]] == ["yes", "yes", "no", "no", "no"]
    assert all(100 / 3 < line["probe"]["mean"] <= 100 for line in results["lines"])
    untrained = Run(run / "resnet8-resnet8-unlabeled-quick").record["untrained_heads"]
    assert untrained == ["distilled-crd:exclude=sample-0"], "no label taught CRD's student"
    seen = Run(run / "resnet8-on-labels-quick").network("model-0").contract
    assert (seen.modality, seen.shape[0]) == ("chrominance", 2)
