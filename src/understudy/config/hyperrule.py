"""BiT-HyperRule: fine-tuning hyper-parameters as a function of the number of images and their size.

Kolesnikov et al., "Big Transfer (BiT): General Visual Representation Learning", ECCV 2020, section 3.3. The paper and
the released code differ in the decay steps and in the size of large images; both are here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from understudy.errors import UnderstudyError, nearest

Variant = Literal["code", "paper"]

_BATCH, _LR = 512, 0.003
_SMALL_AREA = 96 * 96  # pixels below which images are small
# examples below which a schedule applies: steps, warm-up and decays of the code, MixUp alpha
_SCHEDULES = (
    (20_000, 500, 100, (200, 300, 400), 0.0),
    (500_000, 10_000, 500, (3_000, 6_000, 9_000), 0.1),
    (None, 20_000, 500, (6_000, 12_000, 18_000), 0.1),
)
_SMALL, _LARGE = (160, 128), {"code": (512, 480), "paper": (448, 384)}


@dataclass(frozen=True)
class HyperRule:
    """The hyper-parameters of one task.

    Attributes:
        steps: number of updates.
        warmup: steps over which the learning rate rises from zero.
        decay_steps: where the learning rate falls to a tenth: after each of these steps in the code, at each in the
            paper.
        base_lr: the learning rate between warm-up and first decay.
        batch_size: images per update.
        mixup: alpha of MixUp; 0 disables it.
        resize: images are resized to a square of this many pixels,
        crop_size: and cropped at random to this many; test images are resized to it.
    """

    steps: int
    warmup: int
    decay_steps: tuple[int, ...]
    base_lr: float
    batch_size: int
    mixup: float
    resize: int
    crop_size: int
    variant: Variant = "code"

    @property
    def milestones(self) -> tuple[int, ...]:
        """The first step of each lower learning rate."""
        return tuple(step + 1 if self.variant == "code" else max(step, 1) for step in self.decay_steps)

    def within(self, steps: int) -> HyperRule:
        """The same schedule scaled to another number of steps."""
        if steps < 1:
            raise UnderstudyError(f"a schedule needs at least one step, not {steps}")

        def scaled(step: int) -> int:
            return round(step * steps / self.steps)

        return replace(self, steps=steps, warmup=scaled(self.warmup), decay_steps=tuple(map(scaled, self.decay_steps)))

    def sized(self, crop_size: int) -> HyperRule:
        """The same for another crop size, with `resize` in proportion."""
        if crop_size < 1:
            raise UnderstudyError(f"the crop size must be at least one pixel, not {crop_size}")
        return replace(self, crop_size=crop_size, resize=round(crop_size * self.resize / self.crop_size))

    @property
    def fields(self) -> dict[str, Any]:
        """The rule as fields of a recipe."""
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "mixup": self.mixup,
            "optimizer": {
                "name": "sgd",
                "lr": self.base_lr,
                "momentum": 0.9,
                "weight_decay": 0.0,
                "schedule": "step",
                "warmup_steps": self.warmup,
                "milestone_steps": self.milestones,
                "gamma": 0.1,
            },
            "augmentation": {"resize": self.resize, "crop_size": self.crop_size},
        }


def hyperrule(
    examples: int, size: tuple[int, int], *, variant: Variant = "code", batch_size: int = _BATCH
) -> HyperRule:
    """BiT-HyperRule for a task.

    Args:
        examples: number of training images.
        size: (height, width) of a typical image, in pixels.
        variant: "code", as released, or "paper": the learning rate decays after 30, 60 and 90% of the steps, and large
            images are 448 and 384 pixels. The paper does not mention a warm-up; the code's is kept.
        batch_size: images per update; the learning rate scales with it (0.003 at 512). The number of steps stays.

    Raises:
        UnderstudyError: no examples, no pixels, no batch, or an unknown variant.

    >>> rule = hyperrule(1_020, (500, 375))
    >>> rule.steps, rule.milestones, rule.base_lr, rule.resize, rule.crop_size
    (500, (201, 301, 401), 0.003, 512, 480)
    """
    if variant not in get_args(Variant):
        raise UnderstudyError(f"BiT-HyperRule has no variant {variant!r}{nearest(variant, get_args(Variant))}")
    if examples < 1 or min(size) < 1 or batch_size < 1:
        raise UnderstudyError(
            f"BiT-HyperRule needs at least one example, one pixel and one image per update, not {examples} examples of "
            f"{size[0]}x{size[1]} pixels and a batch size of {batch_size}"
        )
    _, steps, warmup, decays, mixup = next(row for row in _SCHEDULES if row[0] is None or examples < row[0])
    if variant == "paper":
        decays = tuple(steps * tenths // 10 for tenths in (3, 6, 9))
    resize, crop_size = _SMALL if size[0] * size[1] < _SMALL_AREA else _LARGE[variant]
    lr = _LR * batch_size / _BATCH
    return HyperRule(steps, warmup, decays, lr, batch_size, mixup, resize, crop_size, variant)
