"""Correlation congruence: the kernel matrix of a batch's embeddings (CC, Peng et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.objectives.base import check_number
from understudy.objectives.features import EMBEDDINGS, EmbeddingObjective, TapPair
from understudy.objectives.precision import full_precision, unit


@full_precision
def correlation_loss(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """`1 / B^2 * ||K_S - K_T||_F^2`, K the Taylor expansion of the Gaussian kernel of normalized embeddings.

    `exp(-gamma ||x - y||^2) = exp(-2 gamma) sum_p (2 gamma)^p / p! (x'y)^p` for unit vectors, truncated after
    p = `order` (section 3; the paper uses gamma 0.4 and order 2). Inputs are (B, ...), flattened and normalized here;
    their widths may differ, so that no projector is needed.

    >>> student, teacher = torch.eye(2), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    >>> round(correlation_loss(student, teacher).item(), 3)
    0.127
    """
    return (kernel(student, gamma, order) - kernel(teacher, gamma, order)).square().mean()


def kernel(x: Tensor, gamma: float, order: int) -> Tensor:
    """(B, ...) -> (B, B), the truncated Gaussian kernel, by Horner's rule on the cosines."""
    x = unit(x.flatten(1))
    cosines = x @ x.mT
    value = torch.zeros_like(cosines)
    for p in reversed(range(order + 1)):
        value = value * cosines + (2 * gamma) ** p / math.factorial(p)
    return math.exp(-2 * gamma) * value


class CorrelationCongruence(EmbeddingObjective):
    """`correlation_loss`, the paper's kernel congruence over all pairs of a batch.

    The default weight, 0.02, is that of Tian et al. (2020). They tuned it for a different form, sums of products of
    the differences of consecutive samples, which is much larger than this mean over pairs: expect to raise it here.
    """

    summary = "the kernel matrix of the embeddings (correlation congruence, Peng et al. 2019)"
    weight = 0.02

    def __init__(self, pairs: Sequence[TapPair] = (EMBEDDINGS,), gamma: float = 0.4, order: int = 2) -> None:
        super().__init__(pairs)
        check_number("gamma", gamma, above=True)
        check_number("order", order, least=1, most=100, whole=True)
        self.gamma, self.order = gamma, order

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return correlation_loss(student, teacher, self.gamma, self.order)
