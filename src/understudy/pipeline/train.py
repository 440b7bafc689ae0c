"""`train`: a teacher or a baseline, trained on labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch

from understudy.config.recipe import TrainRecipe
from understudy.data import Source, fraction
from understudy.errors import UnderstudyError
from understudy.evaluation import accuracy_by_size, fit_scale, predict_logits
from understudy.models import InputContract, Network
from understudy.pipeline.base import Pipeline, for_crops
from understudy.pipeline.loss import Term
from understudy.runs.run import Run

T = TypeVar("T", bound=TrainRecipe)
_CALIBRATION_SAMPLES = 10_000  # more than one number needs


class Train(Pipeline[T]):
    """Trains `model` on the labels of the data."""

    def open_data(self) -> tuple[Source, Source | None]:
        train, test = super().open_data()
        if train.targets is None:
            raise UnderstudyError(f"{train.name} has no labels; train needs them (distill on it with --transfer-set)")
        return train, test

    @property
    def test_size(self) -> int | None:
        return self.recipe.test_size

    @property
    def spec(self) -> str:
        return self.recipe.model

    def losses(self) -> Mapping[str, tuple[Term, ...]]:
        if self.recipe.loss == "sigmoid":
            return {"model": (Term("bce", 1.0),)}
        return {"model": (Term("ce", 1.0, {"label_smoothing": self.recipe.label_smoothing}),)}

    def contract(self) -> InputContract:
        return for_crops(self.data.contract(self.recipe.modality), self.recipe)

    def initialize(self, network: Network) -> None:
        recipe = self.recipe
        if recipe.test_size and not network.accepts_size(recipe.test_size):
            size = "x".join(map(str, network.contract.shape[1:]))
            raise UnderstudyError(f"{network.spec or 'the model'} takes images of {size} only; leave out --test-size")
        if recipe.zero_head:
            network.zero_heads()
            network.init_from += ", set to zero" if network.init_from else ""
        if recipe.calibrate:
            network.scale_logits(1.0)  # fails now, not after the training
        if recipe.freeze:
            network.freeze()

    def finish(self, name: str, network: Network, run: Run, device: torch.device) -> None:
        recipe, validation = self.recipe, self.data.validation
        if recipe.augmentation.crop_size and validation is not None:
            tried = accuracy_by_size(network, validation, recipe.augmentation.crop_size, device=device)
            run.note(sizes=run.record.get("sizes", {}) | {name: tried})
        if recipe.test_size:
            network.set_input_size(recipe.test_size)
        if recipe.calibrate:
            calibrate(network, validation or self.data.train, recipe.seed, device)
        super().finish(name, network, run, device)


def calibrate(network: Network, source: Source, seed: int, device: torch.device) -> None:
    """Temperature scaling: scale the logits until mean confidence is accuracy."""
    samples = source.subset(fraction(source, min(1.0, _CALIBRATION_SAMPLES / len(source)), seed))
    predictions = predict_logits(network, samples, device=device)
    assert predictions.targets is not None
    network.scale_logits(fit_scale(predictions.logits, predictions.targets))
