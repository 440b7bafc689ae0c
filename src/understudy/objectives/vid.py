"""Variational information distillation: a lower bound on the layers' mutual information (VID, Ahn et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import check_number
from understudy.objectives.features import FeatureObjective, Shape, TapPair, match_size, pointwise, shapes_of
from understudy.objectives.precision import full_precision

MIN_VARIANCE = 1e-5


@full_precision
def vid_loss(mean: Tensor, scale: Tensor, teacher: Tensor) -> Tensor:
    """`mean of (t - mu)^2 / (2 sigma_c^2) + log sigma_c`, `sigma_c^2 = log(1 + exp(alpha_c)) + 1e-5` (section 2).

    This is `-log q(t | s)` of a Gaussian, up to a constant, and can be negative. The mean over neurons, instead of the
    paper's sum, follows the released code, as does the weight 1. `mean` is mu(s), the student's layer after its
    regressor, (B, C) or (B, C, H, W) like t; `scale` is alpha, (C,), one variance per channel of the teacher.

    >>> mean, alpha = torch.zeros(2, 3), torch.full((3,), math.log(math.e - 1))  # sigma = 1
    >>> round(vid_loss(mean, alpha, torch.full((2, 3), 2.0)).item(), 3)
    2.0
    """
    variance = F.softplus(scale) + MIN_VARIANCE
    variance = variance.reshape(-1, *(1,) * (teacher.dim() - 2))
    return 0.5 * ((teacher - mean).square() / variance + variance.log()).mean()


class VariationalInformation(FeatureObjective):
    """`vid_loss` summed over all pairs. The regressor `mu` is three 1x1 convolutions (or Linears) with ReLUs.

    The paper also pairs the logits, by a linear `mu`; here only layers are paired. `variance` is the initial sigma^2.
    """

    summary = "a bound on the layers' mutual information (VID, Ahn et al. 2019)"
    weight = 1.0

    def __init__(self, pairs: Sequence[TapPair], variance: float = 5.0) -> None:
        super().__init__(pairs)
        check_number("variance", variance, least=MIN_VARIANCE, most=500, above=True)  # expm1 must not overflow
        scale = math.log(math.expm1(variance - MIN_VARIANCE))
        self.means = nn.ModuleList(_regressor(*shapes_of(pair)) for pair in pairs)
        self.scales = nn.ParameterList(torch.full((pair.teacher_shape[0],), scale) for pair in pairs)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = match_size(student, teacher)
        return vid_loss(self.means[index](student), self.scales[index], teacher)


def _regressor(student: Shape, teacher: Shape) -> nn.Module:
    width, rank = teacher[0], len(teacher)
    first, second, third = (pointwise(inputs, width, rank) for inputs in (student[0], width, width))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
