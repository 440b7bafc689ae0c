"""Specialists whose generalist's soft targets are on the disk: the same specialists, without its forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import understudy
from resumable import QUICK, stop_at, weights
from understudy.cli import main
from understudy.config.recipe import SpecialistRecipe
from understudy.errors import Interrupted, UnderstudyError
from understudy.pipeline.specialist import Specialist
from understudy.pipeline.targets import with_targets
from understudy.runs import Run
from understudy.teachers import Teacher

CPU = torch.device("cpu")
SERIAL: dict[str, Any] = {**QUICK, "workers": 0}
SOFT: dict[str, Any] = {"clusters": 2, "soft": 0.5, "temperature": 2.0, "epochs": 2, "batch_size": 64, **SERIAL}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generalist of digits with its answers, plain and mixed, to three views; another network."""
    root = tmp_path_factory.mktemp("home")
    for name, seed in (("generalist", 0), ("other", 1)):
        understudy.train("digits", "mlp:32x1", run=root / name, epochs=2, seed=seed, **SERIAL)
    shared: dict[str, Any] = {"views": 3, "translate": 1, **SERIAL}
    understudy.label("digits", root / "generalist", out=root / "targets", **shared)
    understudy.label("digits", root / "generalist", out=root / "mixed", mixup=0.5, **shared)
    return root


@pytest.mark.parametrize("targets", ["targets", "mixed"])
def test_a_store_answers_like_the_generalist(home: Path, targets: str) -> None:
    """To every batch of a specialist's own sampler, over more epochs than there are views."""
    model = str(home / "generalist/models/model-0.safetensors")
    recipe = SpecialistRecipe(
        data="digits", model=model, group=("3", "8"), soft=1.0, targets=str(home / targets), seed=7, batch_size=50,
        epochs=4, **SERIAL,
    )  # fmt: skip
    pipeline = Specialist(with_targets(recipe))
    pipeline.verify()
    store, generalist = pipeline.teacher(CPU), pipeline.live_teacher(CPU)
    assert store is pipeline.store
    assert isinstance(generalist, Teacher)
    batches = pipeline.batches(CPU)
    shown = [batch for epoch in range(4) for batch in batches.epoch(epoch)]
    for batch in shown:
        assert store is not None
        torch.testing.assert_close(store(batch).logits, generalist(batch).logits, rtol=2e-3, atol=2e-3)
    labels = torch.cat([batch.targets for batch in shown if batch.targets is not None])
    assert 0.4 < float(torch.isin(labels, torch.tensor([3, 8])).double().mean()) < 0.6, "half of them are of the group"
    partners = [batch.partners for batch in shown if batch.partners is not None]
    assert bool(partners) == (targets == "mixed")
    if partners:
        assert set(torch.cat(partners).tolist()) == set(range(10)), "they are of the whole data set"


def test_the_specialist_is_that_of_the_live_generalist(home: Path, tmp_path: Path) -> None:
    """The first one has the seed of the views, so that it sees the same images either way."""
    only: dict[str, Any] = {"only": 0, **SOFT}
    live = understudy.specialists("digits", home / "generalist", run=tmp_path / "live", translate=1, **only)
    stored = understudy.specialists(
        "digits", home / "generalist", run=tmp_path / "stored", targets=home / "targets", **only
    )
    one, other = (load_file(found.path / "specialist-0/models/model-0.safetensors") for found in (live, stored))
    start = load_file(home / "generalist/models/model-0.safetensors")
    for name, x in one.items():
        moved = (x - start.get(name, torch.zeros(()))).double().norm()
        assert (x - other[name]).double().norm() <= 5e-3 * moved, name


def test_the_generalist_answers_only_what_is_checked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = Teacher.__call__

    def counted(self: Teacher, batch: Any) -> Any:
        asked.append(len(batch))
        return real(self, batch)

    monkeypatch.setattr(Teacher, "__call__", counted)
    understudy.specialists("digits", home / "generalist", run=tmp_path / "s", targets=home / "targets", only=0, **SOFT)
    assert 0 < sum(asked) <= 64


def test_stopped_they_end_the_same(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"targets": home / "mixed", **SOFT}
    understudy.specialists("digits", home / "generalist", run=tmp_path / "whole", **options)
    stop_at(monkeypatch, 30)
    with pytest.raises(Interrupted):
        understudy.specialists("digits", home / "generalist", run=tmp_path / "stopped", **options)
    monkeypatch.undo()
    understudy.resume(tmp_path / "stopped")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    recipe = Run(tmp_path / "whole" / "specialist-1").recipe
    assert isinstance(recipe, SpecialistRecipe)
    assert (recipe.augmentation.translate, recipe.mixup) == (1, 0.5), "as the targets were made"


def test_what_does_not_fit(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(match: str, generalist: str = "generalist", **options: Any) -> None:
        with pytest.raises(UnderstudyError, match=match) as found:
            understudy.specialists("digits", home / generalist, run=tmp_path / "s", **{**SOFT, **options})
        assert "\n" not in str(found.value)
        assert not (tmp_path / "s").exists()

    refused("targets does not hold the answers of the generalist .*other.*; label the data with it: understudy label",
            "other", targets=home / "targets")  # fmt: skip
    refused("holds no targets", targets=tmp_path)
    refused("targets are read for soft targets only; pass --soft 1", soft=0.0, targets=home / "targets")
    refused(r"mixup is 0\.1, and .*targets was made with 0\.0", mixup=0.1, targets=home / "targets")
    refused("it fits only all samples that were labeled", validation=0.2, targets=home / "mixed")
    line = ["specialists", "digits", "--generalist", str(home / "generalist"), "--targets", str(home / "targets")]
    assert main(line) == 2
    assert "--soft" in capsys.readouterr().err
