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
from understudy import config as bit
from understudy.cli.app import main
from understudy.config.recipe import TrainRecipe
from understudy.config.verbs import TransferConfig
from understudy.data import draw_shots, open_source, read_subset, typical_size
from understudy.errors import Interrupted, UnderstudyError
from understudy.evaluation.facts import FewShotFacts, ShotResult
from understudy.models import load_network
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run import start
from understudy.pipeline.run_data import Overrides
from understudy.pipeline.weights import pretrained
from understudy.runs.collection import RunCollection
from understudy.runs.run import Run
from understudy.training import Loop
from understudy.verbs.arguments import configure
from understudy.verbs.few_shots import few_shots
from understudy.verbs.transfer import plan, transfer

QUICK: dict[str, Any] = {
    "rule": "bit", "crop_size": 12, "steps": 5, "batch_size": 16, "from_scratch": True, "workers": 0,
}  # fmt: skip


def planned(data: object, backbone: str, **options: Any) -> tuple[TrainRecipe, tuple[str, ...]]:
    """The recipe that the rule resolves to, and what the user is told."""
    given = None if isinstance(data, (str, Path)) else data
    options = {"rule": "bit"} | options
    made = plan(configure(TransferConfig, options, data=data, backbone=backbone), Overrides(data=given))
    recipe = made.recipes["transfer"]
    assert isinstance(recipe, TrainRecipe)
    return recipe, made.notes


def fields(recipe: TrainRecipe) -> dict[str, Any]:
    return recipe.model_dump(exclude={"optimizer", "augmentation"}) | dict(recipe.optimizer) | dict(recipe.augmentation)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small net that knows five of the digits."""
    run, few = tmp_path_factory.mktemp("upstream"), ("0", "1", "2", "3", "4")
    return understudy.train("digits", "cnn:8-16", epochs=6, lr=0.01, only_classes=few, run=run).path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Color images of several sizes: class by color."""
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
    recipe, notes = planned("digits", "cnn:8", from_scratch=True)
    rule = bit.hyperrule(len(open_source("digits").train), (8, 8))
    found = fields(recipe)
    assert found | rule.fields["optimizer"] | rule.fields["augmentation"] == found
    assert (found["steps"], found["batch_size"], found["mixup"], found["head"]) == (500, 512, 0.0, "zero")
    assert found["micro_batch"] == 128, "as many images of 128 pixels as are likely to fit"
    assert "1,438 images of 8x8 pixels: 500 steps" in notes[0]
    assert any("enlarged" in line for line in notes)


def test_ways_to_differ_from_the_rule() -> None:
    plain = fields(planned("digits", "cnn:8", from_scratch=True)[0])

    def differing(**ways: Any) -> dict[str, Any]:
        found = fields(planned("digits", "cnn:8", from_scratch=True, **ways)[0])
        return {name: value for name, value in found.items() if value != plain[name]}

    assert differing(micro_batch=32) == {"micro_batch": 32}, "the same updates, with less memory"
    assert differing(batch_size=128) == {"batch_size": 128, "micro_batch": None, "lr": 0.003 / 4}
    assert differing(steps=50) == {"steps": 50, "warmup_steps": 10, "milestone_steps": (21, 31, 41)}
    assert differing(crop_size=32) == {"resize": 40, "crop_size": 32, "micro_batch": None}
    assert differing(random_crop=False) == {"resize": 128}
    assert differing(flip=False) == {"flip": False}
    assert differing(mixup=0.1) == {"mixup": 0.1}
    assert differing(decay_to="initial") == {"decay_to": "initial", "weight_decay": 1e-4}
    assert differing(decay_to="zero", weight_decay=0.01) == {"weight_decay": 0.01}
    assert differing(variant="paper") == {"milestone_steps": (150, 300, 450)}
    assert differing(lr=0.1, seed=3) == {"lr": 0.1, "seed": 3}, "any field of the recipe goes over the rule's"


def test_many_images_are_mixed() -> None:
    images, labels = torch.zeros(20_000, 1, 4, 4, dtype=torch.uint8), torch.arange(20_000) % 2
    recipe, _ = planned((images, labels), "cnn:4", from_scratch=True, crop_size=8)
    assert (recipe.steps, recipe.mixup) == (10_000, 0.1)
    assert planned((images, labels), "cnn:4", from_scratch=True, crop_size=8, mixup=0)[0].mixup == 0


def test_the_median_size_is_read_from_headers(photos: Path) -> None:
    assert typical_size(open_source(photos).train) == (26, 30)
    recipe, _ = planned(photos, "cnn:8", from_scratch=True)
    assert (recipe.augmentation.resize, recipe.augmentation.crop_size) == (160, 128)


def test_a_backbone_of_one_size_keeps_it() -> None:
    recipe, notes = planned("digits", "timm:vit_tiny_patch16_224?depth=1", from_scratch=True)
    assert (recipe.augmentation.resize, recipe.augmentation.crop_size) == (280, 224)
    assert any("224 pixels only" in line for line in notes)
    with pytest.raises(UnderstudyError, match="224 pixels only; leave out --crop-size"):
        planned("digits", "timm:vit_tiny_patch16_224?depth=1", from_scratch=True, crop_size=64)


def test_batchnorm_is_pointed_out() -> None:
    _, notes = planned("digits", "cnn:8", from_scratch=True, micro_batch=16)
    assert any("BatchNorm's statistics are of the 16 images" in line for line in notes)


# --- carried out ------------------------------------------------------------------------------------------


def test_a_transfer_is_an_ordinary_run(tmp_path: Path, upstream: Path) -> None:
    ways: dict[str, Any] = {"crop_size": 12, "steps": 30, "batch_size": 128, "lr": 0.1}
    run = transfer("digits", upstream, rule="bit", run=tmp_path / "a", **ways)
    assert run.recipe.kind == "train"
    assert run.finished
    network = load_network(run.models["model-0"])
    assert network.contract.shape == (1, 12, 12)
    assert network.contract.mean == load_network(Run(upstream).models["model-0"]).contract.mean, "the backbone's own"
    accuracy = run.facts.rows[0].mean("accuracy")
    assert accuracy is not None
    assert accuracy > 0.3
    assert any("BiT-HyperRule for 1,438 images" in note for note in run.facts.notes)
    again = start(pipeline_of(run.recipe), tmp_path / "b")  # type: ignore[arg-type]
    assert again.models["model-0"].read_bytes() == run.models["model-0"].read_bytes(), "its recipe says it all"


def test_heads_begin_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[Tensor] = []
    real = Loop.run

    def run(self: Loop) -> int:
        (head,) = self.members[0].network.heads.values()
        heads.extend(p.detach().clone() for p in head.parameters())
        return real(self)

    monkeypatch.setattr(Loop, "run", run)
    once: dict[str, Any] = QUICK | {"steps": 1}
    transfer("digits", "cnn:8", run=tmp_path, **once)
    assert len(heads) == 2
    assert not any(bool(x.any()) for x in heads)


def test_a_module_and_a_folder_of_photos(tmp_path: Path, photos: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(8, 3))
    run = transfer(photos, net, run=tmp_path / "a", crop_size=16, steps=40, batch_size=18, lr=0.1, workers=0)
    assert run.facts.rows[0].mean("accuracy") == 1.0
    with pytest.raises(UnderstudyError, match="has 3 outputs for 10 classes"):
        transfer("digits", net, run=tmp_path / "b", crop_size=16, modality="rgb")
    with pytest.raises(UnderstudyError, match="cannot take images of 1x16x16"):
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
    run = understudy.train(
        photos, "cnn:4", subset=str(tmp_path / "two.json"), epochs=1, batch_size=6, workers=0, run=tmp_path / "a"
    )
    assert run.facts.data is not None
    assert run.facts.data.train_examples == 6
    student = understudy.distill(
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
    with pytest.raises(UnderstudyError, match="are not in the training split of digits"):
        understudy.train("digits", "cnn:4", subset=str(tmp_path / "two.json"), steps=1, run=tmp_path / "c")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"data": "x"}', '{"a": 1', '{"data":"x","shots":1,"seed":0,"draw":0,"classes":{}}']
)
def test_what_is_no_manifest_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "no.json").write_text(text)
    with pytest.raises(UnderstudyError, match="is not a subset manifest"):
        understudy.train("digits", "cnn:4", subset=str(tmp_path / "no.json"), run=tmp_path / "run")
    with pytest.raises(UnderstudyError, match="cannot be read"):
        understudy.train("digits", "cnn:4", subset=str(tmp_path / "none.json"), run=tmp_path / "run")


def shots_of(found: RunCollection) -> list[ShotResult]:
    facts = found.facts
    assert isinstance(facts, FewShotFacts)
    return facts.results


def test_draws_give_medians_and_are_resumed_one_by_one(
    tmp_path: Path, upstream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: dict[str, Any] = {"crop_size": 8, "steps": 6, "batch_size": 32, "draws": 2}
    whole = few_shots("digits", upstream, [1, 3], run=tmp_path / "whole", **ways)
    assert list(whole.runs) == [f"shots-{count}-draw-{draw}" for count in (1, 3) for draw in (0, 1)]
    one, three = shots_of(whole)
    assert (one.shots, one.examples, len(one.accuracies)) == (1, 10, 2)
    assert (three.shots, three.examples, len(three.accuracies)) == (3, 30, 2)
    assert three.median is not None
    assert three.median == pytest.approx(sum(three.accuracies) / 2)
    assert three.spread == (min(three.accuracies), max(three.accuracies))
    drawn = [whole.runs[f"shots-3-draw-{draw}"].recipe.subset for draw in (0, 1)]
    assert len({read_subset(Path(str(file))).ids[0] for file in drawn}) > 1
    assert f"{100 * three.median:.2f}" in whole.report.read_text()
    real, calls = Loop._update, 0

    def update(self: Loop, batch: object, samples: int) -> None:
        nonlocal calls
        real(self, batch, samples)  # type: ignore[arg-type]
        calls += 1
        if calls == 9:  # in the second of the runs
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_update", update)
    parts = tmp_path / "parts"
    with pytest.raises(Interrupted, match=f"continue with: understudy resume {parts}"):
        few_shots("digits", upstream, [3, 1], run=parts, **ways)
    found = RunCollection(parts)
    assert sum(run.finished for run in found.runs.values()) == 1
    first, second = (parts / "subsets" / f"shots-1-draw-{draw}.json" for draw in (0, 1))
    drawn_first = first.read_text()
    first.write_text(second.read_text())
    with pytest.raises(UnderstudyError, match="draws of other samples"):
        few_shots("digits", upstream, [1, 3], run=parts, **ways)
    first.write_text(drawn_first)
    assert main(["resume", str(parts)]) == 0
    assert calls == 4 * 6, "no step was made twice"
    assert shots_of(found) == shots_of(whole)
    for a, b in zip(found.runs.values(), whole.runs.values(), strict=True):
        assert a.models["model-0"].read_bytes() == b.models["model-0"].read_bytes()
    with pytest.raises(UnderstudyError, match="is finished; its page is"):
        few_shots("digits", upstream, [1, 3], run=parts, **ways)
    for change in ({"steps": 5}, {"seed": 1}):
        other: dict[str, Any] = ways | change
        with pytest.raises(UnderstudyError, match="holds results of other options"):
            few_shots("digits", upstream, [1, 3], run=parts, **other)
    assert calls == 4 * 6


def test_a_folder_that_can_be_resumed_has_all_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, opened = Run.open, []

    def second_fails(self: Run, *args: Any, **options: Any) -> None:
        opened.append(self)
        if len(opened) == 2:
            raise KeyboardInterrupt
        real(self, *args, **options)

    few: dict[str, Any] = QUICK | {"draws": 2, "run": tmp_path / "few"}
    monkeypatch.setattr(Run, "open", second_fails)
    with pytest.raises(KeyboardInterrupt):
        few_shots("digits", "cnn:8", [1], **few)
    monkeypatch.undo()
    assert not RunCollection(tmp_path / "few").exists
    assert few_shots("digits", "cnn:8", [1], **few).finished


# --- the command line and bad input -----------------------------------------------------------------------


def test_the_command(tmp_path: Path, upstream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["transfer", "digits", "--rule", "bit", "--backbone", str(upstream), "--crop-size", "8", "--steps", "4"]
    words += ["--batch-size", "64", "--no-flip"]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "# BiT-HyperRule for 1,438 images" in said
    assert "crop_size: 8" in said
    assert main([*words, "--mixup", "0.1", "--run", str(tmp_path / "a")]) == 0
    assert (run := Run(tmp_path / "a")).finished
    assert run.recipe.mixup == 0.1
    assert main([*words, "--shots", "1,2", "--draws", "1", "--run", str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "median" in said
    assert [one.shots for one in shots_of(RunCollection(tmp_path / "b"))] == [1, 2]


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
    with pytest.raises(UnderstudyError, match=r"are not on this machine and could not be downloaded \(\w+\)"):
        planned("digits", "timm:resnet18")
    with pytest.raises(UnderstudyError, match="no pre-trained weights for coatnet_0_224"):
        planned("digits", "timm:coatnet_0_224")


def test_a_class_without_an_example_is_named() -> None:
    source = open_source((torch.zeros(40, 3, 8, 8, dtype=torch.uint8), torch.arange(40) % 3)).train
    bare = source.subset((source.targets != 1).nonzero().flatten())  # type: ignore[union-attr, operator]
    with pytest.raises(UnderstudyError, match="no training example of class '1'"):
        planned(bare, "cnn:8", from_scratch=True)
    assert planned(bare, "cnn:8", from_scratch=True, omit_classes=("1",))[0].steps == 500


_FRESH = ["digits", "--backbone", "cnn:8", "--from-scratch"]


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "DATA is missing; write understudy transfer photos/"),
     (["digits"], "--backbone is missing; write --backbone"),
     (["digits", "--backbone", "cnn:8"], "pass --from-scratch"),
     (["digits", "--backbone", "timm:resnot18"], "did you mean"),
     ([*_FRESH, "--shots", "500"], "fewer than 500 shots"),
     ([*_FRESH, "--shots", "a,b"], "--shots: Input should be a valid integer, not 'a'"),
     ([*_FRESH, "--shots", "0"], "--shots: Input should be greater than or equal to 1"),
     ([*_FRESH, "--shots", "1", "--validation", "0.1"], "leave out"),
     ([*_FRESH, "--rule", "bit", "--steps", "0"], "no steps leave a linear probe"),
     ([*_FRESH, "--batch-size", "0"], "--batch-size: Input should be greater than or equal to 1, not 0"),
     ([*_FRESH, "--crop-size", "0"], "--crop-size: Input should be greater than or equal to 1, not 0")],
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
        planned((torch.rand(40, 5), torch.arange(40) % 2), "mlp:8", from_scratch=True)


# --- fine-tuning ------------------------------------------------------------------------------------------


def test_networks_with_batch_norm_are_fine_tuned_from_a_probe_and_bit_s_by_their_rule(upstream: Path) -> None:
    recipe, notes = planned("digits", str(upstream), rule="auto")
    assert (recipe.head, recipe.epochs, recipe.batch_size, recipe.patience) == ("best", 20, 32, 3)
    assert recipe.optimizer.name == "adamw"
    assert recipe.validation == 0.1
    assert notes[0].startswith("fine-tuning from a linear probe: 20 epochs")
    recipe, _ = planned("digits", "bit:R14x0.125?root=cifar", rule="auto", from_scratch=True)
    assert (recipe.head, recipe.optimizer.name) == ("zero", "sgd")
    assert planned("digits", str(upstream), rule="finetune", lr=0.5)[0].optimizer.lr == 0.5


def test_with_few_shots_the_probe_is_the_answer(upstream: Path, tmp_path: Path) -> None:
    few = transfer("digits", upstream, shots=[5], draws=1, run=tmp_path / "few", threads=1)
    (run,) = few.runs.values()
    assert run.recipe.steps == 0
    accuracy, frozen = run.facts.rows[0].mean("accuracy"), run.record["frozen"]["model-0"]
    assert accuracy is not None
    assert accuracy > 0.5
    assert frozen["probe"] is not None


def test_a_fine_tuned_network_is_never_worse_than_its_start_on_the_validation_part(
    upstream: Path, tmp_path: Path
) -> None:
    """A learning rate that ruins it: the weights of the start are kept."""
    ruined = transfer(
        "digits", upstream, steps=60, lr=3.0, clip=None, run=tmp_path / "ruined", precise_bn=False, threads=1
    )
    probe = transfer("digits", upstream, steps=0, run=tmp_path / "probe", threads=1, validation=0.1)
    mine, start = (load_network(run.models["model-0"]).state_dict() for run in (ruined, probe))
    assert all(torch.equal(x, start[name]) for name, x in mine.items())
