"""Attention transfer: where in the image a layer is active (AT, Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from understudy.objectives.base import check_number
from understudy.objectives.features import FeatureObjective, TapPair, match_size
from understudy.objectives.precision import full_precision, unit


@full_precision
def attention_loss(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """`mean_j (Q_S[j] / ||Q_S|| - Q_T[j] / ||Q_T||)^2`, `Q = sum_c |A_c|^p` flattened: the paper's equation (2).

    The paper's equation has the norm of the difference; its code has the mean square over the batch and the HW
    positions, as here, and the weight 1000 goes with the code. Of (B, C, H, W) and (B, C', H', W'), the larger maps
    are average-pooled to the size of the smaller.

    >>> import torch
    >>> attention_loss(torch.ones(2, 4, 2, 2), torch.full((2, 8, 4, 4), 3.0))  # the same map up to scale
    tensor(0.)
    """
    student, teacher = match_size(student, teacher)
    return (attention_map(student, power) - attention_map(teacher, power)).square().mean()


def attention_map(x: Tensor, power: float = 2.0) -> Tensor:
    """(B, C, H, W) -> (B, HW), the normalized attention map. Normalization makes the mean over channels the sum."""
    energy = x.square() if power == 2 else x.abs().pow(power)
    return unit(energy.mean(1).flatten(1))


class AttentionTransfer(FeatureObjective):
    """`attention_loss` summed over all pairs of feature maps, with power p = 2 as in the paper. Has no parameters."""

    ranks = (3,)
    summary = "where each layer is active (attention transfer, Zagoruyko and Komodakis 2017)"
    weight = 1000.0

    def __init__(self, pairs: Sequence[TapPair], power: float = 2.0) -> None:
        super().__init__(pairs)
        check_number("power", power, least=1, most=100)
        self.power = power

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return attention_loss(student, teacher, self.power)
