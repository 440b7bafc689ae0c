"""How networks with BatchNorm and vision transformers are fine-tuned, from a linear probe; BiT's have their own rule.

Of few images a class the probe itself is the answer, as fine-tuning hardly ever beats it (Kumar et al. 2022,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution": probe first, then fine-tune).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FEW_SHOTS = 20
"""Images a class below which nothing is trained beyond the probe."""
BATCH, LR, WEIGHT_DECAY, SMOOTHING = 32, 1e-4, 0.05, 0.1
PATIENCE = 3
"""Epochs without a better validation accuracy."""
_EPOCHS = ((10_000, 20), (100_000, 10), (None, 5))  # below so many images


@dataclass(frozen=True)
class FineTuning:
    """The schedule for a task: AdamW from a linear probe, with the best epoch on a validation part.

    Attributes:
        epochs: 0 where the probe is the answer.
        validation: the part of the images that is held out; 0 where there are too few.
    """

    epochs: int
    batch_size: int
    validation: float

    @property
    def fields(self) -> dict[str, Any]:
        """Of a recipe."""
        if not self.epochs:
            return {"head": "best", "steps": 0, "batch_size": self.batch_size}
        held = {"validation": self.validation, "patience": PATIENCE} if self.validation else {}
        return {
            "head": "best", "epochs": self.epochs, "batch_size": self.batch_size, "label_smoothing": SMOOTHING,
            "optimizer": {"name": "adamw", "lr": LR, "weight_decay": WEIGHT_DECAY, "warmup": 0.1, "clip": 1.0},
        } | held  # fmt: skip


def batch_for_tuning(examples: int) -> int:
    """Images of an update: fewer where a pass would have less than four."""
    return min(BATCH, max(2, examples // 4))


def finetuning(examples: int, classes: int) -> FineTuning:
    """The schedule for so many images of so many classes.

    >>> finetuning(720, 12)
    FineTuning(epochs=20, batch_size=32, validation=0.1)
    >>> finetuning(120, 12).epochs
    0
    """
    batch = batch_for_tuning(examples)
    if examples < FEW_SHOTS * classes:
        return FineTuning(0, batch, 0.0)
    return FineTuning(next(epochs for most, epochs in _EPOCHS if most is None or examples < most), batch, 0.1)
