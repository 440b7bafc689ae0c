"""`train`: a teacher or a baseline, trained on labels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch.nn.functional import cross_entropy

from understudy.config.recipe import TrainRecipe
from understudy.data import Source, fraction, resize_square, stratified_split
from understudy.errors import UnderstudyError
from understudy.evaluation import accuracy_by_size, fit_scale, predict_logits
from understudy.evaluation.frozen import fit_head
from understudy.models import InputContract, Network
from understudy.pipeline.base import Pipeline, for_crops
from understudy.pipeline.device import device_of, first_process
from understudy.pipeline.loss import Term
from understudy.pipeline.run_data import RunData
from understudy.runs.run import Run
from understudy.terminal import Terminal
from understudy.training import Member

T = TypeVar("T", bound=TrainRecipe)
_CALIBRATION_SAMPLES = 10_000  # more than one number needs
_FEWEST, _MOST, _SHARE = 10, 1_000, 0.1  # held out from the training samples, where there is no validation part


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

    def hold_out(self, train: Source) -> tuple[Source, Source | None]:
        """A network is calibrated on samples that it was not trained on; where they would be too few, on none."""
        if not self.recipe.calibrate:
            return train, None
        kept, held_out = stratified_split(train, min(_SHARE, _MOST / len(train)), self.recipe.seed)
        return (train.subset(kept), train.subset(held_out)) if len(held_out) >= _FEWEST else (train, None)

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
        if recipe.head == "zero":
            network.zero_heads()
            network.init_from += ", set to zero" if network.init_from else ""
        probed = recipe.head in ("probe", "best") and network.class_bias is None
        if probed and any(head.bias is None for head in network.heads.values()):
            network.class_bias = torch.zeros(len(network.classes))  # which the probe sets
        if recipe.calibrate:
            network.scale_logits(1.0)  # fails now, not after the training
        if recipe.freeze:
            network.freeze()

    def begin(self, members: Sequence[Member], run: Run) -> None:
        if self.recipe.head not in ("probe", "best"):
            return
        found, device = dict[str, Any](), device_of(self.recipe)
        for member in members:
            network, started = member.network, time.monotonic()
            train = self.data.train
            if self.recipe.augmentation.crop_size:
                train = resize_square(train, network.contract.shape[-1])
            own = self.recipe.head == "best" and network.head_kept
            with Terminal().waiting(f"scoring {network.name} frozen on {len(train):,} samples"):
                scores = fit_head(network.to(device), train, own=own, seed=self.recipe.seed)
            network.cpu()
            Terminal().say(f"{network.name} {scores} in {time.monotonic() - started:.0f} s")
            said = f"{network.name} {scores}"
            found[member.name] = asdict(scores) | {"own": scores.keeps_own, "sentence": said}
        if first_process():
            run.note(frozen=found)

    @property
    def starts_well(self) -> bool:
        return self.recipe.head in ("probe", "best")

    def set_test_size(self, name: str, network: Network, run: Run, device: torch.device) -> None:
        recipe, validation = self.recipe, self.data.validation
        if recipe.augmentation.crop_size and validation is not None:
            tried = accuracy_by_size(network, validation, recipe.augmentation.crop_size, device=device)
            run.note(sizes=run.record.get("sizes", {}) | {name: tried})
        if recipe.test_size:
            network.set_input_size(recipe.test_size)

    def finish(self, name: str, network: Network, run: Run, device: torch.device) -> None:
        recipe = self.recipe
        if recipe.calibrate:
            done = calibrate(name, network, self.data, recipe.seed, device)
            run.note(calibration=run.record.get("calibration", {}) | {name: done})
            Terminal().say(done)
        super().finish(name, network, run, device)


def calibrate(name: str, network: Network, data: RunData, seed: int, device: torch.device) -> str:
    """Scale the logits of a network by what held-out samples give reason to.

    Returns:
        What was done, as a sentence without its period.
    """
    source = data.calibration
    if source is None:
        return (
            f"{name}: not calibrated, as {len(data.train):,} training samples are too few to hold out a tenth of them"
        )
    if len(source) < _FEWEST:
        return f"{name}: not calibrated, as a validation part of {len(source)} samples is too small; it takes {_FEWEST}"
    samples = source.subset(fraction(source, min(1.0, _CALIBRATION_SAMPLES / len(source)), seed))
    predictions = predict_logits(network, samples, device=device)
    logits, targets = predictions.logits, predictions.targets
    assert targets is not None
    scale = fit_scale(logits, targets)
    network.scale_logits(scale)
    held_out = f"{len(targets):,} held-out samples"
    if scale == 1:
        return f"{name}: logits left as they are, as {held_out} do not show that another scale is better"
    before, after = (float(cross_entropy(factor * logits, targets)) for factor in (1.0, scale))
    return f"{name}: logits scaled by {scale:.3g}, as {held_out} give reason to (NLL from {before:.3f} to {after:.3f})"
