"""Mixtures of Gaussians with diagonal covariances, one for each state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_FLOOR = 0.01  # least variance, as a share of that of all frames


@dataclass(frozen=True)
class Mixtures:
    """Of S states, M Gaussians each, over D dimensions; float64.

    Attributes:
        weights: (S, M), which add up to 1.
        means, variances: (S, M, D).
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def log_likelihood(self, x: Tensor) -> Tensor:
        """(T, S) of frames (T, D): `log sum_m w_m N(x; mu_m, diag(v_m))`.

        The squares are multiplied out, so that all states take two matrix products.
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
    """One Gaussian for each state, of the frames that are in it: their mean and their variance.

    Args:
        x: (T, D) frames.
        states: (T,) int64, the state of each.
        count: S.
        before: what a state without frames keeps; without it, the mean and variance of all frames.
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
    """M Gaussians for each state, by scikit-learn's EM on the frames that are in it.

    Args:
        before: where EM begins if it has as many parts; else k-means begins it. A state with fewer than ten frames a
            part keeps what it has there, or its single Gaussian.
    """
    from sklearn.mixture import GaussianMixture

    frames = x.double()
    floor = _FLOOR * frames.var(0, correction=0)
    same = before.weights.shape[1] == parts
    weights = before.weights.expand(count, parts) / (1 if same else parts)
    means, variances = (part.expand(count, parts, -1).clone() for part in (before.means, before.variances))
    weights = weights.clone()
    for s in range(count):
        own = frames[states == s]
        if len(own) < 10 * parts:
            continue
        begun: dict[str, Any] = {}
        if same:
            begun = {
                "weights_init": weights[s].numpy(), "means_init": means[s].numpy(),
                "precisions_init": (1 / variances[s]).numpy(),
            }  # fmt: skip
        fitted = GaussianMixture(parts, covariance_type="diag", reg_covar=1e-3, random_state=s, **begun)
        fitted.fit(own.numpy())
        weights[s] = torch.from_numpy(fitted.weights_)
        means[s] = torch.from_numpy(fitted.means_)
        variances[s] = torch.maximum(torch.from_numpy(fitted.covariances_), floor)
    return Mixtures(weights, means, variances)
