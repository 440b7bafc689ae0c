"""Neuron selectivity transfer: the distribution of where a layer's channels are active (NST, Huang and Wang 2017)."""

from __future__ import annotations

from torch import Tensor

from understudy.objectives.numerics import full_precision, unit
from understudy.objectives.taps import Tapped, same_size


@full_precision
def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the normalised channels, kernel `k(x, y) = (x'y)^2` (section 4).

    `mean_ij k(t_i, t_j) + mean_ij k(s_i, s_j) - 2 mean_ij k(s_i, t_j)`, with `s_i` and `t_j` the channels, vectors of
    length HW and norm 1; the mean over the batch. Since `sum_ij (a_i'b_j)^2 = <A'A, B'B>`, it is also the squared
    distance `||S'S / C - T'T / C'||_F^2` of two (HW, HW) matrices: the smaller of the two forms is computed.

    Args:
        student: (B, C, H, W).
        teacher: (B, C', H', W'); the larger maps are averaged to the size of the smaller.
    """
    student, teacher = same_size(student, teacher)
    s, t = unit(student.flatten(2)), unit(teacher.flatten(2))
    channels, other, positions = s.shape[1], t.shape[1], s.shape[2]
    if positions**2 <= channels**2 + other**2 + channels * other:
        gap = s.mT @ s / channels - t.mT @ t / other
        return gap.square().sum((1, 2)).mean()
    return _kernel_mean(t, t) + _kernel_mean(s, s) - 2 * _kernel_mean(s, t)


class NeuronSelectivity(Tapped):
    """See `nst_loss`: the sum over all pairs of feature maps. Without parameters."""

    ranks = (3,)
    summary = "where the channels of a layer are active (NST, Huang and Wang 2017)"
    weight = 50.0

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return nst_loss(student, teacher)


def _kernel_mean(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT).square().mean()
