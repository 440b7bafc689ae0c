"""ImageNet's experiment on a few images, run to the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.config.recipe import DistillRecipe
from understudy.data import open_source
from understudy.data.loader import in_order
from understudy.evaluation import predict_logits
from understudy.models import build
from understudy.papers import crd_imagenet
from understudy.papers.experiment import Bench
from understudy.pipeline.modality import contract_of

if TYPE_CHECKING:
    from understudy.data import Source
    from understudy.evaluation.logits import Predictions
    from understudy.models import Network
    from understudy.runs.run import Run


def test_imagenet_is_tested_as_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On images whose border says another class than their center."""
    folder, grown = tmp_path / "images", np.random.default_rng(0)
    for part, number in (("train", 4), ("val", 2)):
        for label, color in enumerate(((220, 30, 30), (30, 30, 220))):
            (folder / part / "ab"[label]).mkdir(parents=True)
            for k in range(number):
                side = 48 + 16 * k
                pixels = (
                    np.full((side, side, 3), 255 - np.array(color))
                    if part == "val"
                    else np.full((side, side, 3), color)
                )
                pixels[side // 16 : -side // 16, side // 16 : -side // 16] = color
                noisy = pixels + grown.integers(-20, 20, pixels.shape)
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / part / "ab"[label] / f"{k}.png")
    seen: list[torch.Tensor] = []

    def official(bench: Bench, net: str) -> Path:
        contract = contract_of(open_source(str(folder), size=32).train)
        build("cifar:resnet8", contract).save(tmp_path / "teacher.safetensors")
        return tmp_path / "teacher.safetensors"

    def watched(network: Network, source: Source, **options: Any) -> Predictions:
        inputs = next(in_order(source, 4, torch.device("cpu"))).inputs
        assert isinstance(inputs, torch.Tensor)
        seen.append(inputs)
        return predict_logits(network, source, **options)

    def small(bench: Bench, name: str, recipe: DistillRecipe) -> Run:
        assert (recipe.student, recipe.batch_size, recipe.augmentation.crop_scale) == (
            "torchvision:resnet18",
            256,
            0.08,
        )
        return plain(bench, name, recipe.model_copy(update={"student": "cifar:resnet8", "batch_size": 4}))

    plain = Bench.ensure
    monkeypatch.setattr(Bench, "ensure", small)
    monkeypatch.setattr(crd_imagenet, "_official", official)
    monkeypatch.setattr(crd_imagenet, "_METHODS", {"kd": "kd:weight=0.5+ce:weight=0.5", "dist": "dist"})
    monkeypatch.setattr("understudy.evaluation.predict_logits", watched)
    outcome = crd_imagenet.imagenet(Bench(tmp_path / "runs", quick=True, data=str(folder), size=32))
    assert [line[:2] for line in outcome.lines] == [
        ("teacher, ResNet-34", "73.31%"), ("ResNet-18 alone", "69.76%"), ("kd:weight=0.5+ce:weight=0.5", "70.66%"),
        ("dist", "72.07%"),
    ]  # fmt: skip
    assert outcome.notes[0] == "1 seed, 1 epoch of the paper's 100."
    assert outcome.notes[1] == "images: 8 training samples of 2 classes; ImageNet has 1,281,167 of 1000."
    assert "87.5%" in outcome.notes[2]
    assert len(seen) == 4
    reds = seen[0][0, 0]  # of the first image, which is red but for a border of a sixteenth
    assert reds.min() > 0.6, "the border is not seen"
