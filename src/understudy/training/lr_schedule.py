"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math

from understudy.config.options import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of update `step` (from 0) of `steps`: a linear warmup, then the schedule over the rest.

    >>> config = OptimizerConfig(lr=0.1, schedule="cosine", warmup_steps=2)
    >>> [round(learning_rate(config, step, steps=6), 3) for step in range(6)]
    [0.0, 0.05, 0.1, 0.085, 0.05, 0.015]
    """
    warmup = round(config.warmup * steps) if config.warmup_steps is None else config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1) if config.warmup_steps is None else config.lr * step / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    match config.schedule:
        case "constant":
            factor = 1.0
        case "linear":
            factor = 1.0 - progress
        case "cosine":
            factor = 0.5 * (1.0 + math.cos(math.pi * progress))
        case "step":
            milestones = config.milestone_steps or [milestone * steps for milestone in config.milestones]
            factor = config.gamma ** sum(step >= milestone for milestone in milestones)
    return config.lr * factor
