"""`transfer`: from data and a backbone to a recipe by BiT-HyperRule, and through it; few shots and their manifests."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import understudy
from understudy import api, bit
from understudy.cli import main
from understudy.data import draw_shots, open_source, read_subset, typical_size
from understudy.errors import Interrupted, UnderstudyError
from understudy.few_shots import FewShots, few_shots, go_on
from understudy.models import find_head, load_network
from understudy.recipe import TrainRecipe
from understudy.runs import Run
from understudy.training import Loop
from understudy.transferring import plan_transfer, pretrained, transfer

QUICK: dict[str, Any] = {"crop_size": 12, "steps": 5, "update_batch": 16, "from_scratch": True, "workers": 0}


def fields(recipe: TrainRecipe) -> dict[str, object]:
    return recipe.model_dump(exclude={"optimizer", "views"}) | dict(recipe.optimizer) | dict(recipe.views)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small net that knows five of the digits."""
    run = tmp_path_factory.mktemp("upstream")
    return api.train("digits", "cnn:8-16", epochs=6, lr=0.01, only_classes=("0", "1", "2", "3", "4"), run=run).path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images of several sizes: class by colour."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for c, name in enumerate(("blue", "green", "red")):
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 90, (20 + 2 * k, 30, 3), dtype=np.uint8)
                pixels[..., 2 - c] += 120
                Image.fromarray(pixels).save(folder / part / name / f"{k}.png")
    return folder


# --- the rule on the data ---------------------------------------------------------------------------------


def test_the_recipe_is_the_rule_s() -> None:
    """The number of examples and the size of the images are found."""
    plan = plan_transfer("digits", "cnn:8", from_scratch=True)
    rule = bit.hyperrule(len(open_source("digits").train), (8, 8))
    found = fields(plan.recipe)
    assert found | rule.fields["optimizer"] | rule.fields["views"] == found
    assert (found["steps"], found["batch_size"], found["mixup"], found["zero_head"]) == (500, 512, 0.0, True)
    assert found["micro_batch"] == 128, "as many images of 128 pixels as are likely to fit"
    assert "1,438 images of 8x8 pixels: 500 steps" in plan.told[0]
    assert any("enlarged" in line for line in plan.told)


def test_ways_to_differ_from_the_rule() -> None:
    plain = fields(plan_transfer("digits", "cnn:8", from_scratch=True).recipe)

    def differing(**ways: Any) -> dict[str, object]:
        found = fields(plan_transfer("digits", "cnn:8", from_scratch=True, **ways).recipe)
        return {name: value for name, value in found.items() if value != plain[name]}

    assert differing(batch_size=32) == {"micro_batch": 32}, "the same updates, with less memory"
    assert differing(update_batch=128) == {"batch_size": 128, "micro_batch": None, "lr": 0.003 / 4}
    assert differing(steps=50) == {"steps": 50, "warmup_steps": 10, "milestone_steps": (21, 31, 41)}
    assert differing(crop_size=32) == {"resize": 40, "window": 32, "micro_batch": None}
    assert differing(crop=False) == {"resize": 128}
    assert differing(flip=False) == {"flip": False}
    assert differing(mixup=True) == {"mixup": 0.1}
    assert differing(decay_to="initial") == {"decay_to": "initial", "weight_decay": 1e-4}
    assert differing(decay_to="zero", weight_decay=0.01) == {"weight_decay": 0.01}
    assert differing(variant="paper") == {"milestone_steps": (150, 300, 450)}
    assert differing(lr=0.1, seed=3) == {"lr": 0.1, "seed": 3}, "any field of the recipe goes over the rule's"


def test_many_images_are_mixed() -> None:
    images, labels = torch.zeros(20_000, 1, 4, 4, dtype=torch.uint8), torch.arange(20_000) % 2
    recipe = plan_transfer((images, labels), "cnn:4", from_scratch=True, crop_size=8).recipe
    assert (recipe.steps, recipe.mixup) == (10_000, 0.1)
    assert plan_transfer((images, labels), "cnn:4", from_scratch=True, crop_size=8, mixup=False).recipe.mixup == 0


def test_the_median_size_is_read_from_headers(photos: Path) -> None:
    assert typical_size(open_source(photos).train) == (26, 30)
    recipe = plan_transfer(photos, "cnn:8", from_scratch=True).recipe
    assert (recipe.views.resize, recipe.views.window) == (160, 128)


def test_a_backbone_of_one_size_keeps_it() -> None:
    plan = plan_transfer("digits", "timm:vit_tiny_patch16_224?depth=1", from_scratch=True)
    assert (plan.recipe.views.resize, plan.recipe.views.window) == (280, 224)
    assert any("224 pixels only" in line for line in plan.told)
    with pytest.raises(UnderstudyError, match="224 pixels only; leave out --crop-size"):
        plan_transfer("digits", "timm:vit_tiny_patch16_224?depth=1", from_scratch=True, crop_size=64)


def test_batchnorm_is_told_of() -> None:
    told = plan_transfer("digits", "cnn:8", from_scratch=True, batch_size=16).told
    assert any("BatchNorm takes its statistics from the 16 images" in line for line in told)


# --- carried out ------------------------------------------------------------------------------------------


def test_a_transfer_is_an_ordinary_run(tmp_path: Path, upstream: Path) -> None:
    run = transfer("digits", upstream, run=tmp_path / "a", crop_size=12, steps=30, update_batch=128, lr=0.1)
    assert run.recipe.kind == "train"
    assert run.finished
    network = load_network(run.models["model-0"])
    assert network.contract.shape == (1, 12, 12)
    assert network.contract.mean == load_network(Run(upstream).models["model-0"]).contract.mean, "the backbone's own"
    accuracy = run.facts.rows[0].mean("accuracy")
    assert accuracy is not None
    assert accuracy > 0.3
    assert any("BiT-HyperRule for 1,438 images" in note for note in run.facts.notes)
    again = api.run_recipe(run.recipe, run=tmp_path / "b")  # type: ignore[arg-type]
    assert again.models["model-0"].read_bytes() == run.models["model-0"].read_bytes(), "its recipe says it all"


def test_heads_begin_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[Tensor] = []
    real = Loop.run

    def run(self: Loop) -> int:
        module = self.members[0].network.module
        heads.extend(p.detach().clone() for p in module.get_submodule(find_head(module)).parameters())
        return real(self)

    monkeypatch.setattr(Loop, "run", run)
    transfer("digits", "cnn:8", run=tmp_path, **{**QUICK, "steps": 1})
    assert len(heads) == 2
    assert not any(bool(x.any()) for x in heads)


def test_a_module_and_a_folder_of_photos(tmp_path: Path, photos: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(8, 3))
    run = transfer(photos, net, run=tmp_path / "a", crop_size=16, steps=40, update_batch=18, lr=0.1, workers=0)
    assert run.facts.rows[0].mean("accuracy") == 1.0
    with pytest.raises(UnderstudyError, match="answers 3 classes, and digits has 10"):
        transfer("digits", net, run=tmp_path / "b", crop_size=16, sees="rgb")
    with pytest.raises(UnderstudyError, match="cannot read images of 1x16x16"):
        transfer("digits", net, run=tmp_path / "b", crop_size=16)
    named = transfer(photos, "cnn:8", run=tmp_path / "c", **QUICK)
    evaluated = understudy.evaluate(named.path, photos)
    assert evaluated.rows[0].mean("accuracy") == named.facts.rows[0].mean("accuracy"), "whole images, as it was tested"
    (said,) = understudy.predict(named.path, [photos / "test" / "red" / "0.png"])
    assert said.error is None


# --- few shots --------------------------------------------------------------------------------------------


def test_shots_are_balanced_seeded_and_nested() -> None:
    source = open_source("digits").train
    assert source.targets is not None
    five, ten = draw_shots(source, 5, 0, 0), draw_shots(source, 10, 0, 0)
    assert five.rows(source).tolist() == sorted(five.rows(source).tolist())
    assert source.targets[ten.rows(source)].bincount().tolist() == [10] * 10
    assert set(five.ids) < set(ten.ids)
    assert draw_shots(source, 5, 0, 0) == five
    for other in (draw_shots(source, 5, 0, 1), draw_shots(source, 5, 1, 0)):
        assert len(set(five.ids) & set(other.ids)) < 10
    with pytest.raises(UnderstudyError, match=r"has \d+ training samples of class '\w+', fewer than 150 shots"):
        draw_shots(source, 150, 0, 0)


def test_a_manifest_can_be_loaded_by_others(tmp_path: Path, photos: Path) -> None:
    source = open_source(photos).train
    subset = draw_shots(source, 2, 3, 1)
    subset.write(tmp_path / "two.json")
    assert read_subset(tmp_path / "two.json") == subset
    assert json.loads((tmp_path / "two.json").read_text())["classes"]["red"][0]["name"].startswith("train/red/")
    run = api.train(
        photos, "cnn:4", subset=str(tmp_path / "two.json"), epochs=1, batch_size=6, workers=0, run=tmp_path / "a"
    )
    assert run.facts.data is not None
    assert run.facts.data.train_examples == 6
    student = api.distill(
        photos,
        run.path,
        "cnn:4",
        subset=str(tmp_path / "two.json"),
        epochs=1,
        batch_size=6,
        workers=0,
        run=tmp_path / "b",
    )
    assert student.facts.data is not None
    assert student.facts.data.train_examples == 6
    with pytest.raises(UnderstudyError, match="are not in the training part of digits"):
        api.train("digits", "cnn:4", subset=str(tmp_path / "two.json"), steps=1, run=tmp_path / "c")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"data": "x"}', '{"a": 1', '{"data":"x","shots":1,"seed":0,"draw":0,"classes":{}}']
)
def test_what_is_no_manifest_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "no.json").write_text(text)
    with pytest.raises(UnderstudyError, match="is no manifest of a subset"):
        api.train("digits", "cnn:4", subset=str(tmp_path / "no.json"), run=tmp_path / "run")
    with pytest.raises(UnderstudyError, match="cannot be read"):
        api.train("digits", "cnn:4", subset=str(tmp_path / "none.json"), run=tmp_path / "run")


def test_draws_give_medians_and_are_resumed_one_by_one(
    tmp_path: Path, upstream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: dict[str, Any] = {"crop_size": 8, "steps": 6, "update_batch": 32, "draws": 2}
    whole = few_shots("digits", upstream, [1, 3], run=tmp_path / "whole", **ways)
    one, three = whole.each
    assert (one.shots, one.examples, len(one.runs)) == (1, 10, 2)
    assert (three.shots, three.examples, len(three.runs)) == (3, 30, 2)
    drawn = three.drawn
    assert drawn.median is not None
    assert drawn.median == pytest.approx(sum(drawn.accuracies) / 2)
    assert drawn.spread == (min(drawn.accuracies), max(drawn.accuracies))
    assert len({read_subset(Path(str(run.recipe.subset))).ids[0] for run in three.runs}) > 1
    assert f"{100 * drawn.median:.2f}" in whole.report.read_text()
    real, calls = Loop._update, 0

    def update(self: Loop, batch: object, samples: int) -> None:
        nonlocal calls
        real(self, batch, samples)  # type: ignore[arg-type]
        calls += 1
        if calls == 9:  # in the second of the runs
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_update", update)
    parts = tmp_path / "parts"
    with pytest.raises(Interrupted, match=f"go on with: understudy resume {parts}"):
        few_shots("digits", upstream, [3, 1], run=parts, **ways)
    assert sum(run.finished for one in FewShots(parts).each for run in one.runs) == 1
    assert main(["resume", str(parts)]) == 0
    assert calls == 4 * 6, "no step was made twice"
    for a, b in zip(FewShots(parts).each, whole.each, strict=True):
        assert a.drawn == b.drawn
        for x, y in zip(a.runs, b.runs, strict=True):
            assert x.models["model-0"].read_bytes() == y.models["model-0"].read_bytes()
    few_shots("digits", upstream, [1, 3], run=parts, **ways)
    assert calls == 4 * 6, "the same command again has nothing left to do"
    with pytest.raises(UnderstudyError, match="another recipe"):
        few_shots("digits", upstream, [1, 3], run=parts, **{**ways, "steps": 5})
    with pytest.raises(UnderstudyError, match="draws of other samples"):
        few_shots("digits", upstream, [1, 3], run=parts, seed=1, **ways)
    assert go_on(FewShots(parts)).report.exists()


# --- the command line and bad input -----------------------------------------------------------------------


def test_the_command(tmp_path: Path, upstream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["transfer", "digits", "--backbone", str(upstream), "--crop-size", "8", "--steps", "4"]
    words += ["--update-batch", "64", "--no-flip"]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "# BiT-HyperRule for 1,438 images" in said
    assert "window: 8" in said
    assert main([*words, "--mixup", "--run", str(tmp_path / "a")]) == 0
    assert (run := Run(tmp_path / "a")).finished
    assert run.recipe.mixup == 0.1
    assert main([*words, "--shots", "1,2", "--draws", "1", "--run", str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "median" in said
    assert [one.shots for one in FewShots(tmp_path / "b").each] == [1, 2]


def test_names_get_the_option_that_loads_their_weights() -> None:
    assert pretrained("timm:resnet18") == "timm:resnet18?pretrained=true"
    assert pretrained("timm:resnet18?drop_rate=0.1") == "timm:resnet18?drop_rate=0.1&pretrained=true"
    assert pretrained("torchvision:resnet18") == "torchvision:resnet18?weights=DEFAULT"
    assert pretrained("timm:resnet18?pretrained=true") == "timm:resnet18?pretrained=true"
    assert pretrained("timm:resnet18", from_scratch=True) == "timm:resnet18"
    assert pretrained("BiT-M-R50x1.npz") == "bit:BiT-M-R50x1.npz"
    for fresh in ("cnn:8-16", "bit:R50x1", "mlp:20x1"):
        with pytest.raises(UnderstudyError, match="pass --from-scratch"):
            pretrained(fresh)


def test_weights_that_cannot_be_fetched_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UnderstudyError, match="no network to fetch them"):
        plan_transfer("digits", "timm:resnet18")
    with pytest.raises(UnderstudyError, match="no pre-trained weights of coatnet_0_224"):
        plan_transfer("digits", "timm:coatnet_0_224")


def test_a_class_without_an_example_is_named() -> None:
    source = open_source((torch.zeros(40, 3, 8, 8, dtype=torch.uint8), torch.arange(40) % 3)).train
    bare = source.subset((source.targets != 1).nonzero().flatten())  # type: ignore[union-attr, operator]
    with pytest.raises(UnderstudyError, match="no training example of class '1'"):
        plan_transfer(bare, "cnn:8", from_scratch=True)
    assert plan_transfer(bare, "cnn:8", from_scratch=True, omit_classes=("1",)).recipe.steps == 500


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "say what to learn"), (["digits"], "say what to begin from"),
     (["digits", "--backbone", "cnn:8"], "pass --from-scratch"),
     (["digits", "--backbone", "timm:resnot18"], "did you mean"),
     (["digits", "--backbone", "cnn:8", "--from-scratch", "--shots", "500"], "fewer than 500 shots"),
     (["digits", "--backbone", "cnn:8", "--from-scratch", "--shots", "a,b"], "'a' is none"),
     (["digits", "--backbone", "cnn:8", "--from-scratch", "--shots", "0"], "count from 1"),
     (["digits", "--backbone", "cnn:8", "--from-scratch", "--shots", "1", "--validation", "0.1"], "leave out"),
     (["digits", "--backbone", "cnn:8", "--from-scratch", "--steps", "0"], "at least one step"),
     (["digits", "--backbone", "cnn:8", "--from-scratch", "--update-batch", "0"], "0 a step"),
     (["digits", "--backbone", "cnn:8", "--from-scratch", "--crop-size", "0"], "at least one pixel")],
)  # fmt: skip
def test_bad_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["transfer", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.rglob("*.json")), "nothing is left behind"


def test_vectors_are_not_for_the_rule() -> None:
    with pytest.raises(UnderstudyError, match="holds vectors"):
        plan_transfer((torch.rand(40, 5), torch.arange(40) % 2), "mlp:8", from_scratch=True)
