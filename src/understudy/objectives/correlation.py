"""Correlation congruence: the kernel matrix of a batch's embeddings (Peng et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.objectives.numerics import full_precision, unit
from understudy.objectives.taps import EMBEDDINGS, Embedded, TapPair


@full_precision
def correlation_loss(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """`1 / B^2 * ||K_S - K_T||_F^2`, K the Gaussian kernel of the normalised embeddings by its Taylor series.

    `exp(-gamma ||x - y||^2) = exp(-2 gamma) sum_p (2 gamma)^p / p! (x'y)^p` for vectors of length 1, cut after
    p = `order` (section 3; gamma 0.4 and order 2 are the paper's).

    Args:
        student: (B, ...), flattened and normalised here.
        teacher: (B, ...); its width may differ, so that no projector is needed.
    """
    return (kernel(student, gamma, order) - kernel(teacher, gamma, order)).square().mean()


def kernel(x: Tensor, gamma: float, order: int) -> Tensor:
    """(B, ...) -> (B, B), by Horner's rule on the cosines."""
    x = unit(x.flatten(1))
    cosines = x @ x.mT
    value = torch.zeros_like(cosines)
    for p in reversed(range(order + 1)):
        value = value * cosines + (2 * gamma) ** p / math.factorial(p)
    return math.exp(-2 * gamma) * value


class CorrelationCongruence(Embedded):
    """See `correlation_loss`. The paper's kernel congruence, between samples as they come.

    The default weight, 0.02, is that of Tian et al. (2020). They tuned it for another form, sums of products of
    consecutive samples' differences, which is much larger than this mean over pairs: expect to raise it here.

    Args:
        gamma: the kernel's sharpness, above 0.
        order: the last power of the Taylor series, at least 1.
    """

    summary = "the kernel matrix of the embeddings (correlation congruence, Peng et al. 2019)"
    weight = 0.02

    def __init__(self, pairs: Sequence[TapPair] = (EMBEDDINGS,), gamma: float = 0.4, order: int = 2) -> None:
        super().__init__(pairs)
        if not (gamma > 0 and order >= 1):
            raise ValueError(f"gamma must be above 0 and order at least 1; they are {gamma} and {order}")
        self.gamma, self.order = gamma, order

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return correlation_loss(student, teacher, self.gamma, self.order)
