"""The command line: what flags and files become, and how mistakes come out."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import understudy
from understudy.cli.app import app, main
from understudy.config.options import AugmentationConfig, OptimizerConfig
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.yaml import recipe_from, to_yaml
from understudy.errors import Interrupted, UnderstudyError
from understudy.evaluation.facts import RunFacts
from understudy.objectives import OBJECTIVES
from understudy.pipeline.run_data import Overrides, require
from understudy.runs.run import new_run_path
from understudy.verbs import registry
from understudy.verbs.arguments import Place, Plan
from understudy.verbs.predict import Prediction

VERBS = (
    "train",
    "distill",
    "compare",
    "pretrain",
    "transfer",
    "suite",
    "compress",
    "label",
    "specialists",
    "evaluate",
    "probe",
    "predict",
    "export",
    "reproduce",
    "models",
    "methods",
    "datasets",
    "resume",
    "speech",
    "runs",
    "doctor",
    "benchmark",
    "push",
)
TRAIN = ("train", "digits", "--model", "mlp:8x1")


@dataclass
class Done:
    """Stands in for a run: nothing was trained."""

    path: Path
    facts: RunFacts = field(default_factory=lambda: RunFacts(name="r", kind="train", cautions=["mind the head"]))
    finished: bool = True

    @property
    def report(self) -> Path:
        return Path(__file__)  # one that is there


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What reached the verbs, which do nothing here."""
    seen: dict[str, Any] = {}

    def starter(kind: str) -> Callable[..., Done]:
        def start(config: Any, overrides: Overrides, place: Place) -> Done:
            require(config, Overrides())
            seen.update(recipe=config, trust_code=overrides.trust_code, run=place.run, overwrite=place.overwrite)
            return Done(place.run or Path("r"))

        return start

    def planner(kind: str) -> Callable[..., Plan]:
        def plan(config: Any, overrides: Overrides) -> Plan:
            seen.update(recipe=config)
            return Plan({kind: config}, overrides, ("a note",))

        return plan

    def predict(target: str, images: list[str], *, top: int, trust_code: bool) -> list[Prediction]:
        seen.update(target=target, images=images, top=top)
        assert not trust_code
        return [
            Prediction("a,1.png", ("[red]cat", "dog"), (0.75, 0.25)),
            Prediction("b.png", (), (), "cannot be decoded"),
        ][: len(images)]

    def resume(run: Path, **rest: Any) -> Done:
        seen.update(run=run, **rest)
        raise Interrupted(str(run), 7, 15)

    def evaluate(target: str, data: str, **rest: Any) -> RunFacts:
        seen.update(target=target, data=data, **rest)
        return RunFacts(name="r", kind="evaluate", cautions=["mind the head"])

    monkeypatch.setattr(registry, "starter", starter)
    monkeypatch.setattr(registry, "planner", planner)
    monkeypatch.setattr(registry, "measured", lambda plan: {"train": {"parameters": "1,234"}})
    monkeypatch.setattr("understudy.verbs.predict.predict", predict)
    monkeypatch.setattr("understudy.verbs.resume.resume", resume)
    monkeypatch.setattr("understudy.verbs.evaluate.evaluate", evaluate)
    monkeypatch.chdir(tmp_path)
    return seen


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that must end with code 2."""
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


def test_help_and_the_package_do_not_import_torch() -> None:
    program = (
        "import sys, understudy; from understudy.cli import main; assert main(['--help']) == 0; "
        "assert not {'torch', 'numpy', 'pydantic', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"Examples\n  understudy {verb}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == understudy.__version__


def test_flags_become_a_recipe(calls: dict[str, Any]) -> None:
    line = "distill digits --teacher a b c --student mlp:16x1 --seeds 3 --lr 0.1 --translate 2 --no-flip"
    more = "--no-baseline --class-bias 3=+3.5 4=-1 --milestones 0.5 0.75 --only-classes 7 8 --run out"
    assert main([*line.split(), *more.split()]) == 0
    assert calls["recipe"] == DistillRecipe(
        data="digits", teacher=("a", "b", "c"), student="mlp:16x1", seeds=3,
        optimizer=OptimizerConfig(lr=0.1, milestones=(0.5, 0.75)),
        augmentation=AugmentationConfig(translate=2, flip=False),
        baseline=False, class_bias=("3=+3.5", "4=-1"), only_classes=("7", "8"),
    )  # fmt: skip
    assert (calls["run"], calls["overwrite"], calls["trust_code"]) == (Path("out"), False, False)


def test_a_run_folder_is_chosen(calls: dict[str, Any]) -> None:
    Path("runs/train-digits-1").mkdir(parents=True)
    assert new_run_path("train", "digits") == Path("runs/train-digits-2")
    assert new_run_path("train", "../my photos/") == Path("runs/train-my-photos-1")


def test_flags_are_laid_over_a_file(calls: dict[str, Any]) -> None:
    Path("r.yaml").write_text(
        "kind: train\ndata: mnist\nmodel: mlp:8x1\nvalidation: 0.1\noptimizer: {lr: 0.5, momentum: 0.5}\n"
    )
    assert main(["train", "--config", "r.yaml", "--lr", "0.25", "--patience", "3", "--overwrite"]) == 0
    assert calls["recipe"] == TrainRecipe(
        data="mnist", model="mlp:8x1", validation=0.1, patience=3, optimizer=OptimizerConfig(lr=0.25, momentum=0.5)
    )
    assert calls["overwrite"] is True
    assert main(["train", "digits", "--config", "r.yaml"]) == 0
    assert calls["recipe"].data == "digits"


def test_dry_run_prints_a_recipe_that_can_be_run(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--lr", "0.5", "--dry-run"]) == 0
    assert "run" not in calls
    text, _, lines = capsys.readouterr().out.partition("\n\n")
    assert text.startswith("# a note\n")
    assert recipe_from(yaml.safe_load(text)) == calls["recipe"]
    assert "parameters" in lines
    assert "1,234" in lines


def test_code_is_trusted_only_where_it_was_typed(calls: dict[str, Any]) -> None:
    Path("r.yaml").write_text("kind: train\ndata: digits\nmodel: pkg.mod:fn\n")
    main(["train", "--config", "r.yaml", "--seed", "3"])
    assert calls["trust_code"] is False
    main(["train", "--config", "r.yaml", "--model", "pkg.mod:fn"])
    assert calls["trust_code"] is True
    Path("d.yaml").write_text("kind: distill\ndata: digits\nteacher: [other:fn]\n")
    main(["distill", "--config", "d.yaml", "--student", "pkg.mod:fn"])
    assert calls["trust_code"] is False
    main(["distill", "digits", "--teacher", "a", "--student", "mlp:8x1"])
    assert calls["trust_code"] is False


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train", "DATA is missing; write understudy train digits"),
        ("train digits", "--model is missing; write --model mlp:256x2"),
        ("distill digits --student mlp:8x1", "--teacher is missing"),
        ("distill digits --teacher a", "--student is missing"),
        ("transfer digits", "--backbone is missing"),
        ("transfer digits --backbone a --epochs 3", "Unknown option: --epochs"),
        ("suite", "DATA is missing"),
        ("compress digits --student a", "--backbone is missing"),
        ("specialists digits", "--generalist is missing"),
        ("speech distill digits.zip", "--teacher is missing"),
        ("train digits --model m --lr -1", "--lr: Input should be greater than 0"),
        ("train digits --model m --batch-size few", "--batch-size: "),
        ("train digits --model m --optimizer adam", 'Choose from: "sgd", "adamw"'),
        ("train digits --model m --patience 3", "patience needs a validation part"),
        ("train digits --model m --class-bias 3", "CLASS=NUMBER"),
        ("train digits --model m --epoch 3", "--epochs"),
        ("train digits --model m --config absent.yaml", "there is no recipe absent.yaml"),
        ("train digits --model m --config .", "cannot be read"),
        ("trian digits", "train"),
        ("predict runs/a", "no images; write understudy predict RUN photo.jpg"),
        ("predict runs/a b.png --json --csv", "choose one"),
        ("predict runs/a b.png --top 0", "at least 1"),
        ("evaluate runs/a", "DATA"),
    ],
)
def test_mistakes_are_one_sentence(
    line: str, says: str, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in fails(capsys, *line.split())
    assert not calls


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: train\nepoch: 3\n", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("optimizer: {rate: 3}\n", "unknown key 'optimizer.rate'"),
        ("data: !!python/object/apply:os.system ['touch pwned']\n", "not plain YAML"),
        ("kind: distill\n", "of kind 'distill', not 'train'; use: understudy distill"),
        ("- a\n- b\n", "names and values"),
    ],
)
def test_recipe_files_with_mistakes(
    text: str, says: str, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.yaml").write_text(text)
    assert says in fails(capsys, *TRAIN, "--config", "r.yaml")
    assert not calls
    assert not Path("pwned").exists()


def test_a_recipe_survives_the_file(calls: dict[str, Any]) -> None:
    recipe = DistillRecipe(data="digits", teacher=("a", "b"), student="mlp:8x1", class_bias=("3=1",))
    Path("r.yaml").write_text(to_yaml(recipe))
    assert main(["distill", "--config", "r.yaml"]) == 0
    assert calls["recipe"] == recipe


def test_long_errors_stay_on_one_line(
    monkeypatch: pytest.MonkeyPatch, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_: Any) -> None:
        raise UnderstudyError("the classes [0] of\nthe teacher " + "are not those of the data " * 20)

    monkeypatch.setattr(registry, "starter", lambda kind: start)
    assert "the classes [0] of the teacher are" in fails(capsys, *TRAIN)


def test_an_interrupted_run_says_how_to_go_on(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "runs/a", "--trust-code"]) == 128 + 15
    assert "understudy resume runs/a" in capsys.readouterr().err
    assert calls == {"run": "runs/a", "accept_changed_data": False, "trust_code": True}


def test_evaluate(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "runs/a", "mnist", "--teacher", "t", "u", "--class-bias", "3=+3.5"]) == 0
    assert calls["teacher"] == ("t", "u")
    assert calls["class_bias"] == ("3=+3.5",)
    assert calls["split"] == "test"
    assert "mind the head" in capsys.readouterr().out


def test_predict_json(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "runs/a", "a,1.png", "b.png", "--json", "--top", "2"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert first["classes"][0] == {"class": "[red]cat", "probability": 0.75}
    assert second == {"path": "b.png", "classes": [], "error": "cannot be decoded"}
    assert calls == {"target": "runs/a", "images": ["a,1.png", "b.png"], "top": 2}


def test_predict_csv(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "runs/a", "a,1.png", "b.png", "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["class"] for row in rows] == ["[red]cat", "dog", ""]
    assert rows[0] == {
        "path": "a,1.png",
        "rank": "1",
        "class": "[red]cat",
        "probability": "0.75",
        "error": "",
    }
    assert rows[2]["error"] == "cannot be decoded"


def test_predict_table(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "runs/a", "a,1.png"]) == 0
    out = capsys.readouterr().out
    assert "[red]cat" in out
    assert "75.0%" in out


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for line, word in (
        ("models", "torchvision:"),
        ("models resnet18", "timm:resnet18"),
        ("methods", "crd"),
    ):
        assert main(line.split()) == 0
        assert word in capsys.readouterr().out
    assert "timm has no model" in fails(capsys, "models", "nothing-like-it")


def test_datasets_says_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert main(["datasets", "--data-root", str(tmp_path)]) == 0
    here = {line.split()[0] for line in capsys.readouterr().out.splitlines() if " yes " in line}
    assert here == {"digits", "cifar10"}


def test_reproduce(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[tuple[Any, ...]] = []

    class Experiment:
        summary, minutes, quick_minutes = "a table", 45, 6
        run = staticmethod(lambda *overrides: ran.append(overrides))

    papers = ModuleType("understudy.papers")
    papers.EXPERIMENTS = {"a-paper": Experiment()}  # type: ignore[attr-defined]
    papers.Bench = lambda *overrides, **options: (overrides, options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "understudy.papers", papers)
    assert main(["reproduce"]) == 0
    assert "a-paper" in capsys.readouterr().out
    assert main(["reproduce", "a-paper", "--quick", "--data-root", "d", "--held-out", "3", "8", "--probe", "x"]) == 0
    ((overrides, options),) = ran[0]
    assert overrides == (Path("runs/a-paper"), True, "d")
    assert (options["held_out"], options["probes"], options["download"]) == (("3", "8"), ("x",), False)
    assert "did you mean 'a-paper'?" in fails(capsys, "reproduce", "a-papr")


def test_there_is_a_page_for_each_verb() -> None:
    pages = {page.stem for page in (Path(__file__).parents[1] / "docs" / "commands").glob("*.md")}
    assert pages >= set(VERBS)
    assert app.name == ("understudy",)


def test_every_objective_is_listed_as_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    for name, kind in OBJECTIVES.items():
        assert re.search(rf"^(\w+, )?{name} +{kind.weight:g} ", listed, re.MULTILINE)


def test_completion_is_installed_for_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion", "--shell", "bash"]) == 0
    (script,) = (path for path in tmp_path.rglob("understudy") if path.is_file())
    text = script.read_text()
    assert all(verb in text for verb in VERBS)
    assert "--temperature" in text
    assert str(script) in capsys.readouterr().out
