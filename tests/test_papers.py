"""The papers' experiments: what they would run, and the tables they make of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stand_ins import FakeRun
from understudy.cli.app import main
from understudy.config.recipe import DistillRecipe, Recipe, TrainRecipe
from understudy.config.yaml import recipe_from, to_yaml
from understudy.errors import UnderstudyError
from understudy.models.build import parse_spec
from understudy.papers import EXPERIMENTS
from understudy.papers.crd import TEACHER_EPOCHS, ran
from understudy.papers.experiment import Bench, Comparison, Measured
from understudy.runs.lock import InUse
from understudy.training.lr_schedule import learning_rate

if TYPE_CHECKING:
    from stand_ins import FakeRuns
    from understudy.runs.run import Run

MNIST = [
    "hinton-mnist",
    "hinton-mnist-omit-3",
    "hinton-mnist-only-7-8",
    "hinton-mnist-temperature",
    "hinton-mnist-fraction",
    "hinton-mnist-best",
]
CIFAR = ["crd-cifar100", "crd-ensemble"]
BIT = ["bit-few-shot", "bit-vtab", "bit-ablation"]
NAMES = [*MNIST, *CIFAR]


def lines(fake_runs: FakeRuns, name: str, folder: Path, quick: bool = False) -> list[tuple[str, ...]]:
    outcome = EXPERIMENTS[name].compare(Bench(folder / name, quick))
    return [tuple(map(str, line)) for line in outcome.lines]


def test_names_and_times() -> None:
    others = ["crd-imagenet", "crd-transfer", "crd-cross-modal"]
    assert list(EXPERIMENTS) == [*MNIST, "hinton-specialists", "hinton-speech", *CIFAR, *others, *BIT]
    assert all(EXPERIMENTS[name].summary for name in EXPERIMENTS)
    times = {name: (one.quick_minutes, one.minutes) for name, one in EXPERIMENTS.items()}
    assert all(quick and full and 0 < quick < full for quick, full in (times[name] for name in MNIST))
    assert times["hinton-mnist"] <= (6, 45)


def test_listing_does_not_load_torch() -> None:
    code = "import sys, understudy.papers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_valid_and_the_results_are_written(
    name: str, quick: bool, fake_runs: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    EXPERIMENTS[name].run(Bench(tmp_path / name, quick, "somewhere"))
    assert fake_runs.recipes
    for path, recipe in fake_runs.recipes.items():
        values = recipe.model_dump(mode="json")
        assert recipe_from(values) == recipe
        assert to_yaml(recipe)
        assert recipe.data == ("mnist" if name in MNIST else "cifar100")
        assert recipe.data_root == "somewhere"
        assert path.name.endswith("-quick") == quick
        assert isinstance(recipe, (TrainRecipe, DistillRecipe))
        model = recipe.student if isinstance(recipe, DistillRecipe) else recipe.model
        assert parse_spec(model).family in ({"mlp", "cnn"} if name in MNIST else {"cifar"})
    command = f"understudy reproduce {name}" + " --quick" * quick
    found_in = "results" + "-quick" * quick
    results = json.loads((tmp_path / name / f"{found_in}.json").read_text())
    assert results["command"] == command
    assert results["quick"] is quick
    assert results["lines"]
    assert command in (tmp_path / name / f"{found_in}.md").read_text()
    assert name in capsys.readouterr().out


def test_quick_runs_are_shorter_and_kept_apart(fake_runs: FakeRuns, tmp_path: Path) -> None:
    for name in NAMES:
        lines(fake_runs, name, tmp_path)
    full = dict(fake_runs.recipes)
    for name in NAMES:
        lines(fake_runs, name, tmp_path, quick=True)
    quick = {path: recipe for path, recipe in fake_runs.recipes.items() if path not in full}
    for path, recipe in quick.items():
        whole = full[path.with_name(path.name.removesuffix("-quick"))]
        assert recipe.epochs * recipe.fraction < whole.epochs * whole.fraction


def test_the_experiments_share_one_teacher(fake_runs: FakeRuns, tmp_path: Path) -> None:
    shared = tmp_path / "hinton-mnist" / "teacher"
    for name in MNIST:
        lines(fake_runs, name, tmp_path)
    assert len([r for r in fake_runs.recipes.values() if isinstance(r, TrainRecipe) and "1200" in r.model]) == 1
    for path, recipe in fake_runs.recipes.items():
        if isinstance(recipe, DistillRecipe) and path.parent.name != "hinton-mnist-best":
            assert recipe.teacher == (str(shared),)


def test_the_papers_table(fake_runs: FakeRuns, tmp_path: Path) -> None:
    assert lines(fake_runs, "hinton-mnist", tmp_path) == [
        ("1200-1200, dropout, max-norm, jitter", "67", "70"),
        ("800-800 alone", "146", "151 ± 1.0"),
        ("800-800 alone, jittered as the distilled one", "", "111 ± 1.0"),
        ("800-800 distilled, T = 20", "74", "61 ± 1.0"),
        ("800-800 distilled, T = 20, images as they are", "74", "61 ± 1.0"),
    ]
    runs = {path.name: recipe for path, recipe in fake_runs.recipes.items()}
    assert (runs["distilled"].augmentation.translate, runs["distilled-still"].augmentation.translate) == (2, 0)
    assert len(lines(fake_runs, "hinton-mnist", tmp_path, quick=True)) == 4


def test_omitted_threes(fake_runs: FakeRuns, tmp_path: Path) -> None:
    before, after = lines(fake_runs, "hinton-mnist-omit-3", tmp_path)
    assert before[1:] == ("206", "200 ± 0.0", "133", "130 ± 0.0", "86.8%", "87.1 ± 0.0%")
    assert after[1:] == ("109", "110 ± 0.0", "14", "14 ± 0.0", "98.6%", "98.6 ± 0.0%")
    assert fake_runs.recipes[tmp_path / "hinton-mnist-omit-3" / "distilled"].omit_classes == ("3",)
    assert not fake_runs.recipes[tmp_path / "hinton-mnist" / "teacher"].omit_classes


def test_only_sevens_and_eights(fake_runs: FakeRuns, tmp_path: Path) -> None:
    before, after = lines(fake_runs, "hinton-mnist-only-7-8", tmp_path)
    assert before[1:] == ("47.3%", "2.0 ± 0.0%")
    assert after[1:] == ("13.2%", "1.1 ± 0.0%")
    assert fake_runs.recipes[tmp_path / "hinton-mnist-only-7-8" / "distilled"].only_classes == ("7", "8")


def test_temperature_has_a_plot_and_a_cell_for_each_run(fake_runs: FakeRuns, tmp_path: Path) -> None:
    table = {line[0]: line[1:] for line in lines(fake_runs, "hinton-mnist-temperature", tmp_path)}
    assert table["2.5"] == ("60", "60", "")
    assert table["20"] == ("60", "60", "60")
    assert sum(isinstance(recipe, DistillRecipe) for recipe in fake_runs.recipes.values()) == 24
    assert "<svg" in (tmp_path / "hinton-mnist-temperature" / "temperature.svg").read_text()


def test_a_fraction_is_trained_for_as_many_steps(fake_runs: FakeRuns, tmp_path: Path) -> None:
    table = lines(fake_runs, "hinton-mnist-fraction", tmp_path)
    kinds = ("hard targets", "soft targets")
    assert [line[0] for line in table] == [f"{kind}, {share}" for share in ("100%", "3%") for kind in kinds]
    runs = {path.name: recipe for path, recipe in fake_runs.recipes.items()}
    steps = {name: runs[name].epochs * -(-int(60_000 * runs[name].fraction) // 256) for name in runs}
    assert steps["hard-0.03"] == steps["soft-0.03"] == pytest.approx(steps["hard-1"], rel=0.01)
    assert all(runs[name].augmentation.translate == 0 for name in ("hard-1", "soft-1", "hard-0.03", "soft-0.03"))


def test_best_says_whether_it_is(fake_runs: FakeRuns, tmp_path: Path) -> None:
    outcome = EXPERIMENTS["hinton-mnist-best"].compare(Bench(tmp_path / "hinton-mnist-best"))
    assert "is below 67" in outcome.notes[0]
    assert str(outcome.lines[-1][-1]) == "61 ± 1.0"


def test_a_comparison_in_markdown_and_json() -> None:
    outcome = Comparison(("net", "here"), [("small", Measured((1.0, 3.0), 1, "%"))], ["A note."])
    assert outcome.markdown() == "| net | here |\n| --- | --- |\n| small | 2.0 ± 1.4% |\n\nA note.\n"
    plain = json.loads(json.dumps(outcome.plain()))
    assert plain["lines"][0]["here"]["values"] == [1, 3]
    assert plain["lines"][0]["here"]["mean"] == 2


def cells(fake_runs: FakeRuns, bench: Bench) -> tuple[dict[tuple[str, str], tuple[str, ...]], Comparison]:
    """(pair, method) -> paper, here and correlation, and the whole of it."""
    outcome = EXPERIMENTS["crd-cifar100"].compare(bench)
    table = [tuple(map(str, line)) for line in outcome.lines]
    return {(line[0], line[1]): line[2:] for line in table}, outcome


def test_the_pairs_of_the_cifar_tables(fake_runs: FakeRuns, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "crd-cifar100", pairs=("resnet32x4:resnet8x4", "vgg13:mobilenetv2", "vgg8:resnet8"))
    table, outcome = cells(fake_runs, bench)
    pair = "resnet32x4:resnet8x4"
    assert table[pair, "teacher"] == ("79.42%", "99.70%", "")
    assert table[pair, "alone"] == ("72.50%", "98.89 ± 0.01%", "0.0111 ± 0.0001")
    assert table[pair, "kd"] == ("73.33%", "99.39 ± 0.01%", "0.0061 ± 0.0001")
    published = {method: table[pair, method][0] for method in ("at", "fitnet", "ft", "fsp", "crd", "crd+kd", "dkd")}
    assert published == {
        "at": "73.44%", "fitnet": "73.50%", "ft": "72.86%", "fsp": "72.62%", "crd": "75.51%", "crd+kd": "75.46%",
        "dkd": "76.32%",
    }  # fmt: skip
    assert ("vgg13:mobilenetv2", "fsp") not in table, "no paper has it, and it cannot be run"
    assert {paper for (name, _), (paper, *_) in table.items() if name == "vgg8:resnet8"} == {""}, "not the paper's"
    rates = {r.student: r.optimizer.lr for r in fake_runs.recipes.values() if isinstance(r, DistillRecipe)}
    assert rates == {"cifar:resnet8x4": 0.05, "cifar:mobilenetv2": 0.01, "cifar:resnet8": 0.05}
    for recipe in fake_runs.recipes.values():
        assert (recipe.epochs, recipe.batch_size, recipe.optimizer.weight_decay) == (240, 64, 5e-4)
        assert recipe.augmentation.translate == 4
        assert recipe.augmentation.flip
        falls = [learning_rate(recipe.optimizer, step, 240) / recipe.optimizer.lr for step in (149, 150, 180, 210)]
        assert falls == pytest.approx([1, 0.1, 0.01, 0.001])
    assert outcome.notes[0] == "3 seeds, 240 epochs, as in the paper."
    assert outcome.notes[1] == "cifar100: 50,000 training samples of 100 classes, as in CIFAR-100."


def test_all_thirteen_pairs_and_their_teachers_once(fake_runs: FakeRuns, tmp_path: Path) -> None:
    table, _ = cells(fake_runs, Bench(tmp_path))
    assert len({pair for pair, _ in table}) == 13
    assert len(table) == 13 * (2 + 15) - 7 - 2, "fsp has no figures for 7 pairs, dkd for 2"
    assert all(paper for paper, *_ in table.values())
    teachers = [r.model for r in fake_runs.recipes.values() if isinstance(r, TrainRecipe)]
    assert len(teachers) == len(set(teachers)) == 6
    alone = [r.method for r in fake_runs.recipes.values() if isinstance(r, DistillRecipe) and r.baseline]
    assert alone == [("kd",)] * 13, "the student alone is trained once for each pair"


def test_methods_by_name_or_with_options(fake_runs: FakeRuns, tmp_path: Path) -> None:
    bench = Bench(tmp_path, pairs=("vgg13:vgg8",), methods=("dkd", "crd:weight=1"), seeds=1)
    table, outcome = cells(fake_runs, bench)
    assert [method for _, method in table] == ["teacher", "alone", "kd", "dkd", "crd:weight=1"]
    assert table["vgg13:vgg8", "crd:weight=1"][0] == "", "not as it is published"
    assert {path.name for path in fake_runs.recipes} == {
        "teacher-vgg13", "vgg13-vgg8-kd", "vgg13-vgg8-dkd", "vgg13-vgg8-crd-weight-1",
    }  # fmt: skip
    assert [r.method for r in fake_runs.recipes.values() if isinstance(r, DistillRecipe)][1] == ("dkd:beta=6",)
    assert outcome.notes[0].startswith("1 seed, 240 epochs")
    with pytest.raises(UnderstudyError, match="no method 'crdd'"):
        cells(fake_runs, Bench(tmp_path / "other", pairs=("vgg13:vgg8",), methods=("kd", "crdd")))
    assert not any("other" in str(path) for path in fake_runs.recipes)


def test_a_shortened_schedule_on_another_set_says_so(fake_runs: FakeRuns, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "x", pairs=("wrn_16_2:resnet8",), chosen_epochs=12, data="sets/photos", size=32)
    _, outcome = cells(fake_runs, bench)
    assert {r.epochs for r in fake_runs.recipes.values()} == {12, TEACHER_EPOCHS}
    assert {(r.data, r.size) for r in fake_runs.recipes.values()} == {("sets/photos", 32)}
    assert outcome.notes[0] == "3 seeds, 12 epochs of the paper's 240. The teachers are trained for 40."


def test_notes_say_what_ran(fake_runs: FakeRuns, tmp_path: Path) -> None:
    recipe = DistillRecipe(data="few", student="mlp:4", teacher=("t",), seeds=2, epochs=1)
    note, data = ran([FakeRun(tmp_path, recipe)], 100, ("ImageNet", 1_281_167, 1000))  # type: ignore[list-item]
    assert note == "2 seeds, 1 epoch of the paper's 100."
    assert data == "few: 50,000 training samples of 100 classes; ImageNet has 1,281,167 of 1000."


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch, fake_runs: FakeRuns) -> dict[str, int]:
    """Run name -> how many more times it is found in the hands of another process."""
    held: dict[str, int] = {}
    plain = Bench.ensure

    def ensure(bench: Bench, name: str, recipe: Recipe) -> Run:
        if held.get(name, 0) > 0:
            held[name] -= 1
            raise InUse(f"{name} is in use")
        return plain(bench, name, recipe)

    monkeypatch.setattr(Bench, "ensure", ensure)
    monkeypatch.setattr("understudy.papers.sharing.time.sleep", lambda seconds: None)
    return held


def test_what_others_have_in_hand_is_left_to_them(others: dict[str, int], fake_runs: FakeRuns, tmp_path: Path) -> None:
    bench = Bench(tmp_path, pairs=("vgg13:vgg8", "wrn_40_2:wrn_16_2"), methods=("crd",))
    others |= {"teacher-vgg13": 3, "wrn_40_2-wrn_16_2-crd": 1_000}
    table, outcome = cells(fake_runs, bench)
    assert [path.name for path in fake_runs.recipes] == [
        "teacher-wrn_40_2", "wrn_40_2-wrn_16_2-kd", "teacher-vgg13", "vgg13-vgg8-kd", "vgg13-vgg8-crd",
    ], "the other pair first; the teacher that another process trains is waited for"  # fmt: skip
    assert ("wrn_40_2:wrn_16_2", "crd") not in table
    assert outcome.notes[-1] == "1 of 6 runs are left to other processes; repeat the command for the rest."
    others.clear()
    table, outcome = cells(fake_runs, bench)
    assert ("wrn_40_2:wrn_16_2", "crd") in table
    assert "other processes" not in " ".join(outcome.notes)


def test_two_processes_share_a_table(tmp_path: Path) -> None:
    words = [
        "reproduce", "crd-cifar100", "--quick", "--epochs", "1", "--seeds", "1", "--data", "digits", "--pair",
        "resnet8:resnet8", "--method", "crd", "--run", str(tmp_path / "table"),
    ]  # fmt: skip
    command = [sys.executable, "-m", "understudy", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as other:
        assert main(words) == 0
        said, _ = other.communicate(timeout=600)
        assert other.returncode == 0, said
    names = {path.parent.name for path in (tmp_path / "table").glob("*/run.json")}
    assert names == {f"{name}-quick" for name in ("teacher-resnet8", "resnet8-resnet8-kd", "resnet8-resnet8-crd")}
    for name in names:
        rows = [json.loads(line) for line in (tmp_path / "table" / name / "metrics.jsonl").read_text().splitlines()]
        epochs = [(row["member"], row["epoch"]) for row in rows if row.get("end_of_epoch")]
        assert len(epochs) == len(set(epochs)), "nothing is trained twice"
    assert main(words) == 0
    results = json.loads((tmp_path / "table" / "results-quick.json").read_text())
    assert [line["method"] for line in results["lines"]] == ["teacher", "alone", "kd", "crd"]
    assert all(line["here"]["mean"] > 10 for line in results["lines"]), "better than chance"


def test_one_teacher_and_three(fake_runs: FakeRuns, tmp_path: Path) -> None:
    table = lines(fake_runs, "crd-ensemble", tmp_path)
    assert [line[0] for line in table] == ["1", "3"]
    one, three = (r.teacher for r in fake_runs.recipes.values() if isinstance(r, DistillRecipe))
    assert one == (f"{three[0]}/models/model-0.safetensors",)
    assert fake_runs.recipes[Path(three[0])].seeds == 3


@pytest.mark.parametrize(
    ("name", "bench", "words"),
    [
        ("crd-cifar100", {"pairs": ("wrn_16_2",)}, "TEACHER:STUDENT"),
        ("crd-cifar100", {"pairs": ("wrn_40_2:wrn_16_3",)}, "did you mean"),
        ("hinton-mnist", {"chosen_epochs": 5}, "takes no --epochs"),
        ("crd-ensemble", {"methods": ("kd",)}, "takes no --method"),
        ("crd-imagenet", {"pairs": ("vgg8:vgg8",)}, "takes no --pair"),
        ("crd-imagenet", {}, "--data"),
        ("bit-few-shot", {}, "--backbone"),
        ("bit-vtab", {"backbone": "bit:R14x0.25", "data": "nowhere"}, "has no folder of a VTAB task"),
        ("bit-ablation", {"data": "digits"}, "--held-out"),
        ("crd-cifar100", {"held_out": ("5",)}, "takes no --held-out"),
        ("crd-ensemble", {"pairs": ("vgg8:vgg8", "vgg13:vgg8")}, "takes one --pair"),
    ],
)
def test_what_an_experiment_does_not_take(
    name: str, bench: dict[str, Any], words: str, fake_runs: FakeRuns, tmp_path: Path
) -> None:
    with pytest.raises(UnderstudyError, match=words):
        EXPERIMENTS[name].run(Bench(tmp_path, **bench))
    assert not fake_runs.recipes
