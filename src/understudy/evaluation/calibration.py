"""Calibration of logits: temperature scaling, and class biases that are given by hand or fitted to known priors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from understudy.config.options import parse_assignment
from understudy.errors import UnderstudyError, nearest

_MAX_SCALE = 2.0**10
_WITHIN = 1.92  # nats: half of the 95% quantile of chi squared with one degree of freedom
_SUM_TOLERANCE = 1e-4  # of priors typed by hand


def fit_scale(logits: Tensor, targets: Tensor) -> float:
    """The factor by which to multiply the logits, (N, C), of held-out samples with these targets, (N,) int64.

    This is the 1/T of temperature scaling (Guo et al. 2017, section 4.2), which minimizes the NLL, but no further from
    1 than the samples give reason to: one more sample is counted, any class of which is as likely as the others, so
    that the NLL has a minimum even where all samples are correct; and of all factors in its 95% confidence interval (by
    likelihood ratio), the one nearest to 1 is taken.

    The samples must not have been trained on: of those that a network knows by heart, the best factor says nothing
    about others.

    >>> logits = torch.tensor([[1.0, 0.0]] * 4)
    >>> fit_scale(logits, torch.tensor([0, 0, 0, 1]))  # the best is log 3, but four samples are few
    1.0
    >>> right = torch.tensor([0] * 300 + [1] * 100)
    >>> round(fit_scale(logits.repeat(100, 1), right), 2), round(fit_scale(9 * logits.repeat(100, 1), right), 2)
    (1.0, 0.15)
    """
    logits = logits.double()
    # the logit of the true class of each sample, and its share in the mean logit of the one that is added
    correct = logits.gather(1, targets[:, None])[:, 0] + logits.mean(1) / len(logits)
    weight = 1 + 1 / len(logits)

    def nll(scale: float) -> float:
        return float((weight * (scale * logits).logsumexp(1) - scale * correct).sum())

    def slope(scale: float) -> float:
        return float((weight * ((scale * logits).softmax(1) * logits).sum(1) - correct).sum())

    # the NLL is convex in the scale, so that both searches are for a change of sign
    sharper = slope(1.0) < 0
    end = _MAX_SCALE if sharper else 1 / _MAX_SCALE
    best = _bisect(1.0, end, lambda scale: (slope(scale) < 0) == sharper)
    most = nll(best) + _WITHIN
    return _bisect(1.0, best, lambda scale: nll(scale) > most) if nll(1.0) > most else 1.0


def _bisect(start: float, end: float, before: Callable[[float], bool]) -> float:
    """Where, on the way from `start` to `end` on a logarithmic scale, `before` ceases to hold; `end` if nowhere."""
    for _ in range(60):
        middle = (start * end) ** 0.5
        start, end = (middle, end) if before(middle) else (start, middle)
    return end


def fit_class_bias(logits: Tensor, priors: Tensor, *, tolerance: float = 1e-4) -> Tensor:
    """The biases, (C,) with mean zero, for which the mean prediction equals the given priors; no labels are needed.

    They minimize mean(logsumexp(logits + b)) - priors . b by L-BFGS. The objective is convex, and its gradient is the
    mean prediction minus the priors. The fixed-point step b += log(priors / mean prediction) gives the starting point,
    at which even a class that is never predicted has a gradient.

    >>> logits = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    >>> bias = fit_class_bias(logits, torch.tensor([0.5, 0.5]))
    >>> (logits + bias).softmax(1).mean(0)
    tensor([0.5000, 0.5000])
    """
    from scipy.optimize import minimize

    priors = priors.to(logits.device).double()
    if not (bool((priors > 0).all()) and abs(priors.sum().item() - 1) <= _SUM_TOLERANCE):
        total, least = priors.sum().item(), priors.min().item()
        found = f"they sum to {total:.4g}, the smallest is {least:.4g}"
        raise UnderstudyError(f"class priors must be positive and sum to 1; {found}")
    priors = priors / priors.sum()
    log_probs = logits.detach().double().log_softmax(1)
    start = priors.log() - (log_probs.logsumexp(0) - math.log(len(log_probs)))
    log_probs = (log_probs + start).log_softmax(1)  # keeps the loss near zero, where it loses no precision

    def loss_and_gradient(step: np.ndarray) -> tuple[float, np.ndarray]:
        bias = torch.from_numpy(step).to(priors.device)
        biased = log_probs + bias
        loss = biased.logsumexp(1).mean() - priors @ bias
        return loss.item(), (biased.softmax(1).mean(0) - priors).cpu().numpy()

    # far below the tolerance, so that the result does not depend on the path
    options = {"gtol": tolerance / 1000, "ftol": 0.0, "maxiter": 1000, "maxfun": 10_000}
    fit = minimize(loss_and_gradient, np.zeros(len(priors)), jac=True, method="L-BFGS-B", options=options)
    gap = float(np.abs(fit.jac).max())
    if not gap <= tolerance / 2:  # the other half is for rounding to float32
        raise UnderstudyError(
            f"the class biases miss the priors by {gap:.2g} after {fit.nit:,} iterations; "
            "choose priors closer to the network's predictions"
        )
    bias = start.cpu() + torch.from_numpy(fit.x)
    return (bias - bias.mean()).float().to(logits.device)


def parse_priors(texts: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Parse `("uniform",)`, or `("3=0.1", ...)` where the other classes share the rest equally.

    >>> parse_priors(["dog=0.5"], ["cat", "dog", "eel"])
    tensor([0.2500, 0.5000, 0.2500], dtype=torch.float64)
    """
    if tuple(texts) == ("uniform",):
        return torch.full((len(classes),), 1 / len(classes), dtype=torch.float64)
    if "uniform" in texts:
        raise UnderstudyError("class priors are either uniform or CLASS=NUMBER, as in 3=0.1; use one of these")
    overrides = _assignments(texts, classes)
    total, rest = sum(overrides.values()), len(classes) - len(overrides)
    if min(overrides.values(), default=1.0) <= 0:
        raise UnderstudyError(f"class priors must be positive; {min(overrides.values()):g} is not")
    if total >= 1 if rest else abs(total - 1) > _SUM_TOLERANCE:
        wanted = f"less than 1, to leave a share for the other {rest} classes" if rest else "1"
        raise UnderstudyError(f"these class priors sum to {total:g}; they must sum to {wanted}")
    share = (1 - total) / rest if rest else 0.0
    priors = torch.tensor([overrides.get(index, share) for index in range(len(classes))], dtype=torch.float64)
    return priors / priors.sum()


def parse_bias(texts: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Parse `("3=+3.5", ...)` into (C,) float32 biases, zero for classes not named.

    >>> parse_bias(["dog=+3.5"], ["cat", "dog", "eel"])
    tensor([0.0000, 3.5000, 0.0000])
    """
    overrides = _assignments(texts, classes)
    return torch.tensor([overrides.get(index, 0.0) for index in range(len(classes))])


def _assignments(texts: Sequence[str], classes: Sequence[str]) -> dict[int, float]:
    """Class index -> number; classes are referred to by name, or else by index."""
    overrides: dict[int, float] = {}
    for text in texts:
        name, value = parse_assignment(text)
        if name in classes:
            index = list(classes).index(name)
        elif name.isdecimal() and int(name) < len(classes):
            index = int(name)
        else:
            raise UnderstudyError(f"there is no class {name!r}{nearest(name, classes)}")
        if index in overrides:
            raise UnderstudyError(f"class {name!r} appears twice; name it once")
        if not math.isfinite(value):
            raise UnderstudyError(f"{text!r} is not a finite number; write CLASS=NUMBER, as in 3=+3.5")
        overrides[index] = value
    return overrides
