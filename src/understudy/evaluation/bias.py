"""Class biases: raising logits after training, by hand or until the mean prediction fits known priors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.errors import UnderstudyError, nearest
from understudy.recipe import parse_assignment

_SUM = 1e-4  # by how much priors that were typed may miss a sum of 1


def fit_class_bias(logits: Tensor, priors: Tensor, *, tolerance: float = 1e-4, max_iterations: int = 1000) -> Tensor:
    """The biases with which the mean prediction has the given priors; no labels are needed.

    They minimise mean(logsumexp(logits + b)) - priors . b, which is convex in b; its gradient is the mean
    prediction less the priors. One step of the fixed point b += log(priors / mean prediction) brings in a
    class that is never predicted; Newton steps, damped as by Levenberg and Marquardt, do the rest.

    Args:
        logits: (N, C).
        priors: (C,) positive, of sum 1.
        tolerance: largest difference allowed between a class's mean probability and its prior.

    Returns:
        (C,) float32 of mean zero.

    Raises:
        UnderstudyError: the priors are no distribution, or `max_iterations` were not enough.
    """
    z, priors = logits.detach().double(), priors.to(logits.device).double()
    if not (bool((priors > 0).all()) and abs(priors.sum().item() - 1) <= _SUM):
        raise UnderstudyError(
            f"class priors must be positive and sum to 1; they sum to {priors.sum().item():.4g}, "
            f"the smallest is {priors.min().item():.4g}"
        )
    priors = priors / priors.sum()

    def state(bias: Tensor) -> tuple[float, Tensor, Tensor]:
        biased = z + bias
        predicted = biased.softmax(1)
        return (biased.logsumexp(1).mean() - priors @ bias).item(), predicted, predicted.mean(0)

    mean = z.log_softmax(1).logsumexp(0) - math.log(len(z))
    bias = _centred(priors.log() - mean)
    loss, predicted, mean = state(bias)
    damping, identity = 1e-3, torch.eye(len(priors), dtype=z.dtype, device=z.device)
    for _ in range(max_iterations):
        gap = priors - mean
        if gap.abs().max() <= tolerance / 2:  # the rest of the tolerance is for rounding to float32
            return bias.float()
        scale = mean.clamp_min(1e-30).rsqrt()  # makes the eigenvalues of the curvature lie between 0 and 1
        half = predicted * scale
        curvature = (1 + damping) * identity - half.T @ half / len(z)
        step = _centred(scale * torch.linalg.solve(curvature, scale * gap))
        trial = state(bias + step)
        if math.isfinite(trial[0]) and trial[0] < loss:
            bias, (loss, predicted, mean), damping = bias + step, trial, max(damping / 8, 1e-9)
        else:
            damping *= 4
    raise UnderstudyError(
        f"the class biases still miss the priors by {(priors - mean).abs().max().item():.2g} after "
        f"{max_iterations:,} steps; choose priors nearer to what the network predicts"
    )


def _centred(bias: Tensor) -> Tensor:
    return bias - bias.mean()


def parse_priors(texts: Sequence[str], classes: Sequence[str]) -> Tensor:
    """`("uniform",)`, or `("3=0.1", ...)` with the rest shared equally, as (C,) float64 of sum 1."""
    if tuple(texts) == ("uniform",):
        return torch.full((len(classes),), 1 / len(classes), dtype=torch.float64)
    if "uniform" in texts:
        raise UnderstudyError("class priors are either uniform or CLASS=NUMBER, as in 3=0.1; give one kind")
    given = _assignments(texts, classes)
    total, rest = sum(given.values()), len(classes) - len(given)
    if min(given.values(), default=1.0) <= 0:
        raise UnderstudyError(f"class priors must be positive; {min(given.values()):g} is not")
    if total >= 1 if rest else abs(total - 1) > _SUM:
        wanted = f"less than 1, as the other {rest} share the rest" if rest else "1"
        raise UnderstudyError(f"these class priors sum to {total:g}; they must sum to {wanted}")
    share = (1 - total) / rest if rest else 0.0
    priors = torch.tensor([given.get(index, share) for index in range(len(classes))], dtype=torch.float64)
    return priors / priors.sum()


def parse_bias(texts: Sequence[str], classes: Sequence[str]) -> Tensor:
    """`("3=+3.5", ...)` as (C,) float32 biases, zero for the classes not named."""
    given = _assignments(texts, classes)
    return torch.tensor([given.get(index, 0.0) for index in range(len(classes))])


def _assignments(texts: Sequence[str], classes: Sequence[str]) -> dict[int, float]:
    """Class index -> number; a class goes by its name, or else by its index."""
    given: dict[int, float] = {}
    for text in texts:
        name, value = parse_assignment(text)
        if name in classes:
            index = list(classes).index(name)
        elif name.isdecimal() and int(name) < len(classes):
            index = int(name)
        else:
            raise UnderstudyError(f"there is no class {name!r}{nearest(name, classes)}")
        if index in given:
            raise UnderstudyError(f"class {name!r} is given twice; give it once")
        if not math.isfinite(value):
            raise UnderstudyError(f"{text!r} is not a finite number; write CLASS=NUMBER, as in 3=+3.5")
        given[index] = value
    return given
