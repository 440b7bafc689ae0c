"""What Big Transfer pre-trains with, as a function of how many images there are, the scale and the batch.

Kolesnikov et al., "Big Transfer (BiT): General Visual Representation Learning", ECCV 2020, section 3.2: S learnt from
ILSVRC-2012 (1.28M images), M from ImageNet-21k (14.2M, several labels an image), L from JFT-300M (300M, noisy labels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from understudy.errors import UnderstudyError, nearest

Scale = Literal["S", "M", "L"]
Loss = Literal["softmax", "sigmoid"]

BATCH = 4096
_RATE, _DECAY = 0.03 / 256, 1e-4  # the rate of an image a step
_WARMUP, _SIDE = 5_000, 224
_EPOCHS: dict[Scale, tuple[int, tuple[int, ...]]] = {
    "S": (90, (30, 60, 80)),
    "M": (90, (30, 60, 80)),
    "L": (40, (10, 23, 30, 37)),
}
_LOSSES: dict[Scale, Loss] = {"S": "softmax", "M": "sigmoid", "L": "sigmoid"}
_SHORTEST = round(90 * 1_281_167 / BATCH)  # steps of the paper's shortest schedule, that of ILSVRC
_AREA = 0.08  # least share of an image that the crop keeps (Szegedy et al. 2015)


@dataclass(frozen=True)
class Upstream:
    """What one pre-training is. Steps are updates of the weights.

    Attributes:
        steps: how many there are; batches are whole, and run on from one pass over the images to the next.
        warmup: steps over which the rate rises from zero.
        falls: the first step of each lower rate, a tenth of the one before.
        base_rate: the rate between the warm-up and the first fall.
        batch_size: images a step.
        loss: one softmax over the classes, or a sigmoid for each.
        side: pixels a side of the crops, and of the images tested.
    """

    steps: int
    warmup: int
    falls: tuple[int, ...]
    base_rate: float
    batch_size: int
    loss: Loss
    side: int

    def learning_rate(self, step: int) -> float | None:
        """The rate of a step, counted from 0; None where the training is over."""
        if step >= self.steps:
            return None
        if step < self.warmup:
            return self.base_rate * step / self.warmup
        return self.base_rate * 0.1 ** sum(step >= fall for fall in self.falls)

    @property
    def fields(self) -> dict[str, Any]:
        """It as fields of a recipe, the optimiser's and the views' in their groups."""
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "size": self.side,
            "loss": self.loss,
            "optimizer": {
                "optimizer": "sgd",
                "lr": self.base_rate,
                "momentum": 0.9,
                "weight_decay": _DECAY,
                "schedule": "step",
                "warmup_steps": self.warmup,
                "milestone_steps": self.falls,
                "gamma": 0.1,
            },
            "views": {"crop": _AREA, "jitter": 0},
        }


def upstream(
    examples: int,
    scale: Scale = "S",
    *,
    batch: int = BATCH,
    epochs: int | None = None,
    side: int = _SIDE,
    loss: Loss | None = None,
) -> Upstream:
    """Big Transfer's pre-training on so many images.

    The warm-up is 5,000 steps. Of a schedule of fewer steps than the paper's shortest (ILSVRC's 28,151, at a batch of
    4,096) it is the same share as there: 17.8%, which ends well before the first fall of any scale.

    Args:
        examples: how many images there are to learn from.
        scale: "S", "M" or "L".
        batch: images a step; the rate is scaled with them (0.03 at 256).
        epochs: passes over the images in place of the scale's, its falls in proportion.
        side: pixels a side of what is learnt from.
        loss: the scale's where unset: softmax for S, sigmoid for M and L.

    Raises:
        UnderstudyError: no examples, pixels, batch or epochs, or an unknown scale or loss.
    """
    for what, word, known in (("scale", scale, get_args(Scale)), ("loss", loss, (None, *get_args(Loss)))):
        if word not in known:
            raise UnderstudyError(f"pre-training has no {what} {word!r}{nearest(str(word), filter(None, known))}")
    full, falls = _EPOCHS[scale]
    epochs = full if epochs is None else epochs
    if min(examples, batch, epochs, side) < 1:
        raise UnderstudyError(
            f"pre-training takes at least one example, image a step, epoch and pixel, not {examples} examples, "
            f"{batch} a step, {epochs} epochs of {side} pixels"
        )

    def after(epoch: int) -> int:
        return max(round(examples * epochs * epoch / (full * batch)), 1)

    steps = after(full)
    warmup = min(_WARMUP, round(_WARMUP * steps / _SHORTEST))
    return Upstream(steps, warmup, tuple(map(after, falls)), _RATE * batch, batch, loss or _LOSSES[scale], side)
