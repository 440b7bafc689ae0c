"""Attention transfer: where in the image a layer is active (Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from understudy.objectives.numerics import full_precision, unit
from understudy.objectives.taps import TapPair, Tapped, same_size


@full_precision
def attention_loss(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """`mean_j (Q_S[j] / ||Q_S|| - Q_T[j] / ||Q_T||)^2`, `Q = sum_c |A_c|^p` flattened: the paper's equation (2).

    The paper writes the norm of the difference, its code the mean of squares over the batch and the HW positions,
    to which the weight 1000 belongs.

    Args:
        student: (B, C, H, W).
        teacher: (B, C', H', W'); the larger maps are averaged to the size of the smaller.
        power: p.
    """
    student, teacher = same_size(student, teacher)
    return (attention(student, power) - attention(teacher, power)).square().mean()


def attention(x: Tensor, power: float = 2.0) -> Tensor:
    """(B, C, H, W) -> (B, HW): the normalised map of activity. The mean over channels is the sum, once normalised."""
    energy = x.square() if power == 2 else x.abs().pow(power)
    return unit(energy.mean(1).flatten(1))


class AttentionTransfer(Tapped):
    """See `attention_loss`: the sum over all pairs of feature maps. Without parameters.

    Args:
        power: p, 2 in the paper's experiments.
    """

    ranks = (3,)
    summary = "where each layer is active (attention transfer, Zagoruyko and Komodakis 2017)"
    weight = 1000.0

    def __init__(self, pairs: Sequence[TapPair], power: float = 2.0) -> None:
        super().__init__(pairs)
        if not power >= 1:
            raise ValueError(f"power must be at least 1; it is {power}")
        self.power = power

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return attention_loss(student, teacher, self.power)
