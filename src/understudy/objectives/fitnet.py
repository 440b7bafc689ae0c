"""FitNets: a middle layer of the student regresses the teacher's hint layer (Romero et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import BuildContext, check_number
from understudy.objectives.batch_norm import ChannelNorm
from understudy.objectives.features import FeatureObjective, TapPair, Taps, match_size, pointwise, shapes_of
from understudy.objectives.precision import full_precision

HINT = 2
"""The stage, from the input, of Tian et al. (2020)."""


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
    """`hint_loss` at the end of stage `hint` of both networks, counted from the input; by default the second.

    The regressor is that of Tian et al. (2020): BatchNorm and ReLU after a convolution that fits the student's map to
    the teacher's, 1x1 where the sizes agree, strided where the student's is twice as large, transposed where it is half
    as large, else of a kernel that leaves the teacher's size. A student's map that is smaller in another ratio is
    matched by average-pooling the teacher's.

    The paper first trains on the hint alone, up to the guided layer, and then on soft targets; here the hint is a term
    of the loss throughout, as in Tian et al. (2020).
    """

    summary = "a middle layer regresses the teacher's (FitNets, Romero et al. 2015)"
    weight = 100.0

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__(pairs)
        self.regressors = nn.ModuleList(_regressor(*shapes_of(pair)) for pair in pairs)

    @classmethod
    def from_shapes(
        cls, context: BuildContext, *, taps: Taps | None = None, hint: int | None = None, **options: Any
    ) -> Self:
        if taps:
            return super().from_shapes(context, taps=taps, **options)
        stages = cls.stage_pairs(context)
        if hint is not None:
            check_number("hint", hint, least=1, most=len(stages), whole=True)
        return cls((stages[min(hint or HINT, len(stages)) - 1],), **options)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return hint_loss(*match_size(self.regressors[index](student), teacher))


def _regressor(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    """From the student's (C, H, W) or (D,) to the teacher's."""
    first, width = _fit(student, teacher), teacher[0]
    return nn.Sequential(first, ChannelNorm(width), nn.ReLU())


def _fit(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    sides = list(zip(student[1:], teacher[1:], strict=True))
    if sides and all(s == 2 * t for s, t in sides):
        return nn.Conv2d(student[0], teacher[0], 3, stride=2, padding=1)
    if sides and all(2 * s == t for s, t in sides):
        return nn.ConvTranspose2d(student[0], teacher[0], 4, stride=2, padding=1)
    if sides and all(s >= t for s, t in sides):
        height, width = (1 + s - t for s, t in sides)
        return nn.Conv2d(student[0], teacher[0], (height, width))
    return pointwise(student[0], teacher[0], len(student), bias=True)
