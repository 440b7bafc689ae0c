"""FitNets: a middle layer of the student regresses the teacher's hint layer (Romero et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import BuildContext
from understudy.objectives.features import FeatureObjective, TapPair, make_regressor, match_size
from understudy.objectives.precision import full_precision


@full_precision
def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """`mean (u_h - r(v_g))^2`: FitNets' equation (3), with a mean in place of the factor 1/2 and the sum over neurons.

    `guided` is r(v_g), the student's layer after its regressor, and `hint` is u_h, the teacher's, of the same shape.
    The weight 100 of Tian et al. (2020) goes with the mean.

    >>> import torch
    >>> hint_loss(torch.zeros(2, 8, 4, 4), torch.full((2, 8, 4, 4), 3.0))
    tensor(9.)
    """
    return F.mse_loss(guided, hint)


class FitNet(FeatureObjective):
    """`hint_loss` at the middle taps by default; maps of different sizes are average-pooled to the smaller.

    The paper first trains on the hint alone, up to the guided layer, and then on soft targets; here the hint is a term
    of the loss throughout, as in Tian et al. (2020). The regressor is a 1x1 convolution (or Linear) and BatchNorm.
    """

    summary = "a middle layer regresses the teacher's (FitNets, Romero et al. 2015)"
    weight = 100.0

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__(pairs)
        self.regressors = nn.ModuleList(make_regressor(pair) for pair in pairs)

    @classmethod
    def default_pairs(cls, context: BuildContext) -> tuple[TapPair, ...]:
        pairs = super().default_pairs(context)
        return (pairs[len(pairs) // 2],)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = match_size(student, teacher)
        return hint_loss(self.regressors[index](student), teacher)
