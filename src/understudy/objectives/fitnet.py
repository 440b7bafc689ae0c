"""Hints: a middle layer of the student's regresses one of the teacher's (FitNets, Romero et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import Setting
from understudy.objectives.numerics import full_precision
from understudy.objectives.taps import TapPair, Tapped, regressor, same_size


@full_precision
def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """`mean (u_h - r(v_g))^2`: FitNets' equation (3), whose factor 1/2 and sum over neurons became a mean.

    The weight 100 of Tian et al. (2020) belongs to the mean.

    Args:
        guided: `r(v_g)`, the student's layer after its regressor, (B, ...).
        hint: `u_h`, the teacher's layer, of the same shape.
    """
    return F.mse_loss(guided, hint)


class FitNet(Tapped):
    """See `hint_loss`. The middle taps by default; maps of unequal size meet at the smaller one, averaged.

    The paper trains on hints alone first, up to the guided layer, and then on soft targets; here the hint is a term
    of the loss throughout, as Tian et al. (2020) do. The regressor is a 1x1 convolution (or a Linear) and BatchNorm.
    """

    summary = "a middle layer regresses the teacher's (FitNets, Romero et al. 2015)"
    weight = 100.0

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__(pairs)
        self.regressors = nn.ModuleList(regressor(pair) for pair in pairs)

    @classmethod
    def choose(cls, setting: Setting) -> tuple[TapPair, ...]:
        pairs = super().choose(setting)
        return (pairs[len(pairs) // 2],)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_size(student, teacher)
        return hint_loss(self.regressors[index](student), teacher)
