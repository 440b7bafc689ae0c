"""BiT-HyperRule: what to fine-tune with, as a function of how many images there are and how large they are.

Kolesnikov et al., "Big Transfer (BiT): General Visual Representation Learning", ECCV 2020, section 3.3. The paper and
the released code differ in the decays and in the sizes of large images; both are here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from understudy.errors import UnderstudyError, nearest

Variant = Literal["code", "paper"]

_BATCH, _RATE = 512, 0.003
_SMALL_AREA = 96 * 96  # pixels below which images are small
# examples below which a schedule is for: steps, warm-up and decays of the code, MixUp
_SCHEDULES = (
    (20_000, 500, 100, (200, 300, 400), 0.0),
    (500_000, 10_000, 500, (3_000, 6_000, 9_000), 0.1),
    (None, 20_000, 500, (6_000, 12_000, 18_000), 0.1),
)
_SMALL, _LARGE = (160, 128), {"code": (512, 480), "paper": (448, 384)}


@dataclass(frozen=True)
class HyperRule:
    """What the rule says of one task. Steps are updates of the weights.

    Attributes:
        steps: how many there are.
        warmup: steps over which the rate rises from zero.
        decay_steps: where the rate falls to a tenth: at the step after each in the code, at each itself in the paper.
        base_rate: the rate between the warm-up and the first fall.
        batch_size: images a step.
        mixup: a of Beta(a, a), from which each step's weight is drawn; 0 mixes nothing.
        resize: pixels a side of the square that whole images are brought to.
        crop: pixels a side of what is cut from it at random; in tests images are brought straight to it.
    """

    steps: int
    warmup: int
    decay_steps: tuple[int, ...]
    base_rate: float
    batch_size: int
    mixup: float
    resize: int
    crop: int
    variant: Variant = "code"

    @property
    def falls(self) -> tuple[int, ...]:
        """The first step of each lower rate."""
        return tuple(step + 1 if self.variant == "code" else max(step, 1) for step in self.decay_steps)

    def learning_rate(self, step: int) -> float | None:
        """The rate of a step, counted from 0; None where the training is over."""
        if step >= self.steps:
            return None
        if step < self.warmup:
            return self.base_rate * step / self.warmup
        return self.base_rate * 0.1 ** sum(step >= fall for fall in self.falls)

    def within(self, steps: int) -> HyperRule:
        """The same schedule over another number of steps."""
        if steps < 1:
            raise UnderstudyError(f"a schedule has at least one step, not {steps}")

        def scaled(step: int) -> int:
            return round(step * steps / self.steps)

        return replace(self, steps=steps, warmup=scaled(self.warmup), decay_steps=tuple(map(scaled, self.decay_steps)))

    def sized(self, crop: int) -> HyperRule:
        """The same for images cut to `crop` pixels, out of a square as much larger as the rule has it."""
        if crop < 1:
            raise UnderstudyError(f"a network reads at least one pixel, not {crop}")
        return replace(self, crop=crop, resize=round(crop * self.resize / self.crop))

    @property
    def fields(self) -> dict[str, Any]:
        """The rule as fields of a recipe, the optimiser's and the views' in their groups."""
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "mixup": self.mixup,
            "optimizer": {
                "optimizer": "sgd",
                "lr": self.base_rate,
                "momentum": 0.9,
                "weight_decay": 0.0,
                "schedule": "step",
                "warmup_steps": self.warmup,
                "milestone_steps": self.falls,
                "gamma": 0.1,
            },
            "views": {"resize": self.resize, "window": self.crop},
        }


def hyperrule(examples: int, size: tuple[int, int], *, variant: Variant = "code", batch: int = _BATCH) -> HyperRule:
    """BiT-HyperRule for a task.

    Args:
        examples: how many images there are to learn from.
        size: (height, width) of a typical one, in pixels.
        variant: "code", the released one, or "paper": the rate falls after 30, 60 and 90% of the steps, and large
            images are 448 and 384 pixels. The paper does not speak of a warm-up; the code's is kept.
        batch: images a step; the rate is scaled with them (0.003 at 512). The steps stay.

    Raises:
        UnderstudyError: no examples, no pixels, no batch, or an unknown variant.
    """
    if variant not in get_args(Variant):
        raise UnderstudyError(f"the rule has no variant {variant!r}{nearest(variant, get_args(Variant))}")
    if examples < 1 or min(size) < 1 or batch < 1:
        raise UnderstudyError(
            f"the rule is for at least one example, pixel and image a step, not {examples} examples of "
            f"{size[0]}x{size[1]} pixels, {batch} a step"
        )
    _, steps, warmup, decays, mixup = next(row for row in _SCHEDULES if row[0] is None or examples < row[0])
    if variant == "paper":
        decays = tuple(steps * tenths // 10 for tenths in (3, 6, 9))
    small = size[0] * size[1] < _SMALL_AREA
    resize, crop = _SMALL if small else _LARGE[variant]
    return HyperRule(steps, warmup, decays, _RATE * batch / _BATCH, batch, mixup, resize, crop, variant)
