"""Big Transfer's pre-training as a function of the number of images, the scale and the batch size.

Kolesnikov et al., "Big Transfer (BiT): General Visual Representation Learning", ECCV 2020, section 3.2: S was trained
on ILSVRC-2012 (1.28M images), M on ImageNet-21k (14.2M, several labels per image), L on JFT-300M (300M, noisy labels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from understudy.errors import UnderstudyError, nearest

Scale = Literal["S", "M", "L"]
Loss = Literal["softmax", "sigmoid"]

BATCH = 4096
_LR, _DECAY = 0.03 / 256, 1e-4  # the learning rate is per image of a batch
_WARMUP, _SIZE = 5_000, 224
_EPOCHS: dict[Scale, tuple[int, tuple[int, ...]]] = {
    "S": (90, (30, 60, 80)),
    "M": (90, (30, 60, 80)),
    "L": (40, (10, 23, 30, 37)),
}
_LOSSES: dict[Scale, Loss] = {"S": "softmax", "M": "sigmoid", "L": "sigmoid"}
_SHORTEST = round(90 * 1_281_167 / BATCH)  # steps of the paper's shortest schedule, that of ILSVRC
_AREA = 0.08  # minimum area fraction of the crop (Szegedy et al. 2015)


@dataclass(frozen=True)
class Upstream:
    """The hyper-parameters of one pre-training.

    Attributes:
        steps: number of updates; batches are full, and run on from one epoch to the next.
        warmup: steps over which the learning rate rises from zero.
        milestones: the first step of each lower learning rate, a tenth of the one before.
        base_lr: the learning rate between warm-up and first decay.
        batch_size: images per update.
        loss: softmax over the classes, or one sigmoid per class.
        size: crop and input size in pixels.
    """

    steps: int
    warmup: int
    milestones: tuple[int, ...]
    base_lr: float
    batch_size: int
    loss: Loss
    size: int

    @property
    def fields(self) -> dict[str, Any]:
        """The hyper-parameters as fields of a recipe."""
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "size": self.size,
            "loss": self.loss,
            "optimizer": {
                "name": "sgd",
                "lr": self.base_lr,
                "momentum": 0.9,
                "weight_decay": _DECAY,
                "schedule": "step",
                "warmup_steps": self.warmup,
                "milestone_steps": self.milestones,
                "gamma": 0.1,
            },
            "augmentation": {"crop_scale": _AREA, "translate": 0},
        }


def upstream(
    examples: int,
    scale: Scale = "S",
    *,
    batch_size: int = BATCH,
    epochs: int | None = None,
    size: int = _SIZE,
    loss: Loss | None = None,
) -> Upstream:
    """Big Transfer's pre-training on a number of images.

    The warm-up is 5,000 steps. A schedule shorter than the paper's shortest (ILSVRC's 28,151 steps at a batch of
    4,096) has the same share of it as warm-up, 17.8%, which ends well before the first decay of any scale.

    Args:
        examples: number of training images.
        scale: "S", "M" or "L".
        batch_size: images per update; the learning rate scales with it (0.03 at 256).
        epochs: in place of the scale's, its decays in proportion.
        size: crop and input size in pixels.
        loss: default: softmax for S, sigmoid for M and L.

    Raises:
        UnderstudyError: no examples, pixels, batch or epochs, or an unknown scale or loss.

    >>> schedule = upstream(1_281_167, "S")
    >>> schedule.steps, schedule.warmup, schedule.milestones, round(schedule.base_lr, 3)
    (28151, 5000, (9384, 18767, 25023), 0.48)
    """
    for what, word, known in (("scale", scale, get_args(Scale)), ("loss", loss, (None, *get_args(Loss)))):
        if word not in known:
            raise UnderstudyError(f"pre-training has no {what} {word!r}{nearest(str(word), filter(None, known))}")
    full, decays = _EPOCHS[scale]
    epochs = full if epochs is None else epochs
    if min(examples, batch_size, epochs, size) < 1:
        raise UnderstudyError(
            f"pre-training needs at least one example, one image per update, one epoch and one pixel, not {examples} "
            f"examples, a batch size of {batch_size}, {epochs} epochs and {size} pixels"
        )

    def after(epoch: int) -> int:
        return max(round(examples * epochs * epoch / (full * batch_size)), 1)

    steps = after(full)
    warmup = min(_WARMUP, round(_WARMUP * steps / _SHORTEST))
    lr = _LR * batch_size
    return Upstream(steps, warmup, tuple(map(after, decays)), lr, batch_size, loss or _LOSSES[scale], size)
