"""Big Transfer's experiments, run to the end on a few images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import understudy
from understudy.cli.app import main
from understudy.config.recipe import TrainRecipe
from understudy.papers import bit
from understudy.runs.run import Run

BACKBONE = "bit:R14x0.125?root=cifar"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that was trained on the ten digits."""
    folder = tmp_path_factory.mktemp("upstream") / "run"
    understudy.pretrain("digits", BACKBONE, size=8, batch_size=64, epochs=6, crop_scale=1.0, run=folder)
    return folder


def reproduce(name: str, folder: Path, *words: str) -> list[dict[str, object]]:
    assert main(["reproduce", name, "--quick", "--size", "8", "--run", str(folder), *words]) == 0
    return json.loads((folder / "results-quick.json").read_text())["lines"]


def test_few_shots(upstream: Path, tmp_path: Path) -> None:
    words = ("--backbone", str(upstream), "--data", "digits")
    (line,) = reproduce("bit-few-shot", tmp_path, *words)
    one, every = (float(str(line[head]).partition("%")[0]) for head in ("1 a class", "all"))
    assert one > 20, "twice as good as chance"
    assert every > one
    assert " to " in str(line["1 a class"]), "the draws differ"
    shots = understudy.RunCollection(tmp_path / "few-quick").facts.tasks[0].results
    assert [result.shots for result in shots] == [1, 5, 10]
    assert 100 * shots[0].median == pytest.approx(one, abs=0.05)
    spent = [run.stat().st_mtime for run in tmp_path.rglob("models/*.safetensors")]
    assert reproduce("bit-few-shot", tmp_path, *words) == [line]
    assert [run.stat().st_mtime for run in tmp_path.rglob("models/*.safetensors")] == spent, "nothing is repeated"


def test_the_papers_figures_are_beside_its_tasks() -> None:
    assert bit._TASKS["cifar10"] == (57.9, 82.3, None, 97.4)
    assert bit._NORMS["gn+ws"][1:] == ("76.0%", "70.4%")


def test_vtab(upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two tasks in folders, a class for each brightness; the others are not there."""
    rng = np.random.default_rng(0)
    for task in ("eurosat", "dmlab"):
        for part, number in (("train", 520), ("test", 20)):
            for label in range(2):
                folder = tmp_path / "sets" / task / part / f"class{label}"
                folder.mkdir(parents=True)
                for k in range(number):
                    pixels = rng.integers(0, 100, (8, 8)) + 140 * label
                    Image.fromarray(pixels.astype(np.uint8), "L").save(folder / f"{k}.png")
    lines = reproduce("bit-vtab", tmp_path / "runs", "--backbone", str(upstream), "--data", str(tmp_path / "sets"))
    here = {str(line["task"]): float(str(line["here"]).rstrip("%")) for line in lines}
    assert here["eurosat"] > 80
    assert here["mean of 2 tasks"] == pytest.approx((here["eurosat"] + here["dmlab"]) / 2, abs=0.01)
    assert here["specialized (1)"] == here["eurosat"]
    assert here["structured (1)"] == here["dmlab"]
    assert here["paper, BiT-M R152x4, mean of 19 tasks"] == 70.64
    assert "Not there: caltech101, " in capsys.readouterr().out.replace("\n", " ")


def test_ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bit, "_NORMS", {norm: bit._NORMS[norm] for norm in ("bn", "gn+ws")})
    words = ("--backbone", BACKBONE, "--data", "digits", "--held-out", "4", "--epochs", "1", "--seeds", "1")
    lines = reproduce("bit-ablation", tmp_path, *words)
    assert [(line["ILSVRC-2012, paper"], line["VTAB-1k, paper"]) for line in lines] == [
        ("75.6%", "67.7%"), ("76.0%", "70.4%"), ("", ""), ("", ""), ("", ""),
    ]  # fmt: skip
    after = [line["held-out classes, here"]["mean"] for line in lines]  # type: ignore[index]
    assert max(after) > 50, "twice as good as chance"
    facts = Run(tmp_path / "transfer-bn-quick").facts
    assert after[0] > 100 * facts.rows[0].seeds[0].accuracy, "of its own classes alone"
    recipes: dict[str, TrainRecipe] = {}
    for path in tmp_path.glob("*/recipe.yaml"):
        recipe = Run(path.parent).recipe
        assert isinstance(recipe, TrainRecipe)
        recipes[path.parent.name] = recipe
    held = ("0", "2", "5", "7")
    for name, recipe in recipes.items():
        upstream = name.startswith("upstream")
        assert (recipe.omit_classes, recipe.only_classes) == ((held, ()) if upstream else ((), held))
    models = {name.split("-")[1]: recipe.model for name, recipe in recipes.items() if name.startswith("upstream")}
    assert models["bn"] == f"{BACKBONE}&norm=bn"
    assert recipes["upstream-decay-quick"].optimizer.weight_decay == 1e-5
    assert recipes["upstream-gn+ws-quick"].optimizer.weight_decay == 1e-4
    mixups = {name.removesuffix("-quick"): recipe.mixup for name, recipe in recipes.items() if recipe.mixup}
    assert mixups == {"upstream-mixup": 0.1, "transfer-gn+ws-mixup": 0.1}
    assert all(recipe.optimizer.name == "sgd" for recipe in recipes.values())
