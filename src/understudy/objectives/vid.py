"""Variational information distillation: a lower bound on the layers' mutual information (VID, Ahn et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.numerics import full_precision
from understudy.objectives.taps import Shape, TapPair, Tapped, pointwise, same_size, shapes_of

EPSILON = 1e-5
"""The least variance."""


@full_precision
def vid_loss(mean: Tensor, scale: Tensor, teacher: Tensor) -> Tensor:
    """`mean of (t - mu)^2 / (2 sigma_c^2) + log sigma_c`, `sigma_c^2 = log(1 + exp(alpha_c)) + 1e-5` (section 2).

    It is `-log q(t | s)` of a Gaussian, less the constant; the mean over neurons instead of the paper's sum is that of
    its code, to which the weight 1 belongs. It has no lower bound at 0.

    Args:
        mean: `mu(s)`, the student's layer through its regressor, (B, C) or (B, C, H, W).
        scale: `alpha`, (C,), one variance for each of the teacher's channels.
        teacher: t, of the mean's shape.
    """
    variance = F.softplus(scale) + EPSILON
    variance = variance.reshape(-1, *(1,) * (teacher.dim() - 2))
    return 0.5 * ((teacher - mean).square() / variance + variance.log()).mean()


class VariationalInformation(Tapped):
    """See `vid_loss`: the sum over all pairs. The regressor `mu` is three 1x1 convolutions (or Linears) with ReLUs.

    The paper also pairs the logits by a linear `mu`; here the pairs are those of layers.

    Args:
        variance: sigma^2 at the start.
    """

    summary = "a bound on the layers' mutual information (VID, Ahn et al. 2019)"
    weight = 1.0

    def __init__(self, pairs: Sequence[TapPair], variance: float = 5.0) -> None:
        super().__init__(pairs)
        if not variance > EPSILON:
            raise ValueError(f"variance must be above {EPSILON}; it is {variance}")
        start = math.log(math.expm1(variance - EPSILON))
        self.means = nn.ModuleList(_mean(*shapes_of(pair)) for pair in pairs)
        self.scales = nn.ParameterList(torch.full((pair.teacher_shape[0],), start) for pair in pairs)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_size(student, teacher)
        return vid_loss(self.means[index](student), self.scales[index], teacher)


def _mean(student: Shape, teacher: Shape) -> nn.Module:
    width, rank = teacher[0], len(teacher)
    return nn.Sequential(
        pointwise(student[0], width, rank),
        nn.ReLU(),
        pointwise(width, width, rank),
        nn.ReLU(),
        pointwise(width, width, rank),
    )
