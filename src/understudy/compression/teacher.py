"""The teacher: the backbone as it is given, perhaps fine-tuned, and whichever of the two is better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from understudy.data import Source
from understudy.data.cache import decoded
from understudy.evaluation import predict_logits
from understudy.pipeline.base import Pipeline
from understudy.pipeline.device import device_of, workers_of
from understudy.pipeline.train import Train
from understudy.runs.run import Run

GOOD = 0.95
"""The accuracy of a frozen backbone from which on a budget is not spent on its fine-tuning."""


@dataclass(frozen=True)
class Verdict:
    """Which of two networks teaches, by their accuracy on the validation part.

    Attributes:
        frozen, tuned: accuracies of the backbone under its head, and fine-tuned.
        samples: of the validation part.
    """

    frozen: float
    tuned: float
    samples: int

    @property
    def is_tuned(self) -> bool:
        return self.tuned > self.frozen

    def __str__(self) -> str:
        kept, left = ("fine-tuned", "frozen") if self.is_tuned else ("frozen", "fine-tuned")
        mine, other = (self.tuned, self.frozen) if self.is_tuned else (self.frozen, self.tuned)
        return (
            f"The {kept} backbone teaches: {mine:.1%} on {self.samples:,} validation images, against {other:.1%} of "
            f"the {left} one."
        )


def frozen_accuracy(frozen: Run) -> float:
    """Of a backbone under its best classifier, on images that this was not fitted to."""
    scores = frozen.record["frozen"]["model-0"]
    return scores["given"] if scores["own"] else scores["probe"]


def judge(frozen: Run, tuned: Run, pipeline: Train) -> Verdict:
    """Compare a backbone as it is with the same fine-tuned, on images that neither was fitted to.

    Args:
        frozen: its head was fitted to all images, so its accuracy is that of its cross-validation.
        tuned: was trained without the validation part.
        pipeline: of the tuned run.
    """
    held = pipeline.data.validation
    assert held is not None
    right = right_of(_only(tuned), pipeline, held)
    own = frozen.record["frozen"]["model-0"]
    if own["own"]:  # its head was given, and fitted to none of these images
        known = right_of(_only(frozen), pipeline, held)
        return Verdict(float(known.float().mean()), float(right.float().mean()), len(held))
    known = torch.tensor([own["right"].get(str(number), -1) for number in held.ids.tolist()])
    both = known >= 0  # of many samples some take part in the cross-validation
    return Verdict(float(known[both].float().mean()), float(right[both].float().mean()), int(both.sum()))


def right_of(file: Path, pipeline: Pipeline[Any], held: Source) -> torch.Tensor:
    """(N,) bool: which samples a network of a run classifies right."""
    device = device_of(pipeline.recipe)
    source = decoded(held, workers_of(pipeline.recipe))
    predictions = predict_logits(pipeline.load(file).to(device), source, device=device)
    assert predictions.targets is not None
    return predictions.logits.argmax(1) == predictions.targets


def _only(run: Run) -> Path:
    (file,) = run.models.values()
    return file
