"""Neuron selectivity transfer: the distribution of channel activation patterns (NST, Huang and Wang 2017)."""

from __future__ import annotations

from torch import Tensor

from understudy.objectives.features import FeatureObjective, match_size
from understudy.objectives.precision import full_precision, unit


@full_precision
def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the normalized channels, with kernel `k(x, y) = (x'y)^2` (section 4).

    `mean_ij k(t_i, t_j) + mean_ij k(s_i, s_j) - 2 mean_ij k(s_i, t_j)`, with `s_i` and `t_j` the channels as unit
    vectors of length HW; averaged over the batch. Since `sum_ij (a_i'b_j)^2 = <A'A, B'B>`, it equals the squared
    distance `||S'S / C - T'T / C'||_F^2` of two (HW, HW) matrices; the cheaper of the two forms is computed.
    Of (B, C, H, W) and (B, C', H', W'), the larger maps are average-pooled to the size of the smaller.

    >>> import torch
    >>> round(nst_loss(torch.ones(1, 2, 1, 2), torch.tensor([[[[1.0, 0.0]]]])).item(), 3)
    1.0
    """
    student, teacher = match_size(student, teacher)
    s, t = unit(student.flatten(2)), unit(teacher.flatten(2))
    channels_s, channels_t, positions = s.shape[1], t.shape[1], s.shape[2]
    if positions**2 <= channels_s**2 + channels_t**2 + channels_s * channels_t:
        gap = s.mT @ s / channels_s - t.mT @ t / channels_t
        return gap.square().sum((1, 2)).mean()
    return _kernel_mean(t, t) + _kernel_mean(s, s) - 2 * _kernel_mean(s, t)


class NeuronSelectivity(FeatureObjective):
    """`nst_loss` summed over all pairs of feature maps. Has no parameters."""

    ranks = (3,)
    summary = "where the channels of a layer are active (NST, Huang and Wang 2017)"
    weight = 50.0

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return nst_loss(student, teacher)


def _kernel_mean(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT).square().mean()
