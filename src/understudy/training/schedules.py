"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math

from understudy.recipe import Optimizer


def learning_rate(recipe: Optimizer, step: int, steps: int) -> float:
    """The rate of update `step` (from 0) of `steps`: a linear warm-up, then the schedule over the rest."""
    warm = round(recipe.warmup * steps) if recipe.warmup_steps is None else recipe.warmup_steps
    if step < warm:
        return recipe.lr * (step + 1) / (warm + 1) if recipe.warmup_steps is None else recipe.lr * step / warm
    done = (step - warm) / max(steps - warm, 1)
    match recipe.schedule:
        case "constant":
            factor = 1.0
        case "linear":
            factor = 1.0 - done
        case "cosine":
            factor = 0.5 * (1.0 + math.cos(math.pi * done))
        case "step":
            falls = recipe.milestone_steps or [milestone * steps for milestone in recipe.milestones]
            factor = recipe.gamma ** sum(step >= fall for fall in falls)
    return recipe.lr * factor
