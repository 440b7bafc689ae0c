"""Gaussian mixture emissions with diagonal covariances, one mixture per state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_FLOOR = 0.01  # variance floor, as a fraction of the global variance


@dataclass(frozen=True)
class Mixtures:
    """Mixtures of S states with M components each over D dimensions, in float64."""

    weights: Tensor  # (S, M), summing to 1 for each state
    means: Tensor  # (S, M, D)
    variances: Tensor  # (S, M, D)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """(T, S) log-likelihoods `log sum_m w_m N(x; mu_m, diag(v_m))` of (T, D) frames.

        The squares are expanded, so that two matrix products suffice for all states.
        """
        states, parts, dimensions = self.means.shape
        precision = (1 / self.variances).flatten(0, 1)
        means = self.means.flatten(0, 1)
        constant = (self.variances.log().sum(2) + dimensions * math.log(2 * math.pi)).flatten()
        constant = constant + (means.square() * precision).sum(1)
        x = x.double()
        distance = x.square() @ precision.T - 2 * x @ (means * precision).T
        each = self.weights.log().flatten() - 0.5 * (distance + constant)
        return each.view(len(x), states, parts).logsumexp(2)


def fit_single(x: Tensor, states: Tensor, count: int, before: Mixtures | None = None) -> Mixtures:
    """Fit one Gaussian per state to (T, D) frames, given their (T,) states and the number S of states.

    States without frames keep the parameters `before`, by default the global mean and variance.

    Example:
        >>> frames = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
        >>> single = fit_single(frames, torch.tensor([0, 0, 1, 1]), count=2)
        >>> single.means.flatten().tolist(), single.variances.flatten().tolist()
        ([1.0, 12.0], [1.0, 4.0])
    """
    x = x.double()
    n = torch.bincount(states, minlength=count).double()[:, None]
    sums = x.new_zeros(2, count, x.shape[1])
    sums[0].index_add_(0, states, x)
    sums[1].index_add_(0, states, x.square())
    floor = _FLOOR * x.var(0, correction=0)
    mean = sums[0] / n.clamp_min(1)
    variance = torch.maximum(sums[1] / n.clamp_min(1) - mean.square(), floor)
    empty = n < 1
    kept = (x.mean(0).expand_as(mean), (floor / _FLOOR).expand_as(mean))
    if before is not None:
        kept = (before.means[:, 0], before.variances[:, 0])
    mean, variance = torch.where(empty, kept[0], mean), torch.where(empty, kept[1], variance)
    return Mixtures(torch.ones(count, 1, dtype=torch.float64), mean[:, None], variance[:, None])


def fit_mixtures(x: Tensor, states: Tensor, count: int, parts: int, before: Mixtures) -> Mixtures:
    """Fit a mixture of `parts` components per state to its frames, with scikit-learn's EM.

    EM starts from `before` if it has as many components, and from K-means otherwise. States with fewer than ten frames
    per component keep the parameters `before`.
    """
    from sklearn.mixture import GaussianMixture

    frames = x.double()
    floor = _FLOOR * frames.var(0, correction=0)
    same = before.weights.shape[1] == parts
    weights = before.weights.expand(count, parts) / (1 if same else parts)
    means, variances = (part.expand(count, parts, -1).clone() for part in (before.means, before.variances))
    for s in range(count):
        own = frames[states == s]
        if len(own) < 10 * parts:
            continue
        initial: dict[str, Any] = {}
        if same:
            initial = {
                "weights_init": weights[s].numpy(), "means_init": means[s].numpy(),
                "precisions_init": (1 / variances[s]).numpy(),
            }  # fmt: skip
        fitted = GaussianMixture(parts, covariance_type="diag", reg_covar=1e-3, random_state=s, **initial)
        fitted.fit(own.numpy())
        weights[s] = torch.from_numpy(fitted.weights_)
        means[s] = torch.from_numpy(fitted.means_)
        variances[s] = torch.maximum(torch.from_numpy(fitted.covariances_), floor)
    return Mixtures(weights, means, variances)
