"""Correlation congruence: how the samples of a batch relate (CC, Peng et al. 2019), as released and as published."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from understudy.objectives.base import check_number
from understudy.objectives.features import EMBEDDINGS, EmbeddingObjective, TapPair, shapes_of
from understudy.objectives.precision import full_precision, unit


@full_precision
def congruence_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean_b sum_d |s - t|[b, d] |s - t|[b + 1, d]` over the B - 1 pairs of consecutive samples.

    The form of the authors' code, as in Tian et al. (2020), which is much larger than the paper's. Inputs are (B, D),
    of one width; a single sample has no neighbor and costs nothing.

    >>> student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]), torch.zeros(3, 2)
    >>> congruence_loss(student, teacher)  # (0 + 2) / 2
    tensor(1.)
    """
    gap = (student - teacher).abs()
    return (gap[:-1] * gap[1:]).sum() / max(len(gap) - 1, 1)


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
    """`congruence_loss` of the embeddings, each mapped to `dim` dimensions by a Linear of its own; both are trained.

    Form, dimensions and weight are those of Tian et al. (2020), who had the form from the authors. It depends on the
    order of the batch. The paper's is `KernelCongruence`.
    """

    summary = "how consecutive samples relate in the embeddings (correlation congruence, Peng et al. 2019)"
    weight = 0.02

    def __init__(self, pairs: Sequence[TapPair], dim: int = 128) -> None:
        super().__init__(pairs)
        check_number("dim", dim, least=1, most=65_536, whole=True)
        widths = [tuple(math.prod(shape) for shape in shapes_of(pair)) for pair in pairs]
        self.embed_student = nn.ModuleList(nn.Linear(student, dim) for student, _ in widths)
        self.embed_teacher = nn.ModuleList(nn.Linear(teacher, dim) for _, teacher in widths)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = student.flatten(1), teacher.flatten(1)
        return congruence_loss(self.embed_student[index](student), self.embed_teacher[index](teacher))


class KernelCongruence(EmbeddingObjective):
    """`correlation_loss`, the paper's kernel congruence over all pairs of a batch. Has no parameters.

    No published weight goes with the mean over pairs: its values are small, so tune the weight.
    """

    summary = "the kernel matrix of the embeddings (correlation congruence as published, Peng et al. 2019)"
    weight = 1.0

    def __init__(self, pairs: Sequence[TapPair] = (EMBEDDINGS,), gamma: float = 0.4, order: int = 2) -> None:
        super().__init__(pairs)
        check_number("gamma", gamma, above=True)
        check_number("order", order, least=1, most=100, whole=True)
        self.gamma, self.order = gamma, order

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return correlation_loss(student, teacher, self.gamma, self.order)
