"""Probabilistic knowledge transfer: how probably one sample picks another as its neighbour (Passalis, Tefas 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.objectives.numerics import full_precision, unit
from understudy.objectives.taps import Embedded

SMALLEST = 1e-7
"""The least similarity: its logarithm must be finite for two opposite vectors."""


@full_precision
def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`1 / B^2 * sum_i sum_{j != i} p(j|i) log(p(j|i) / q(j|i))`, p of the teacher and q of the student (section 3).

    `p(j|i) = K(x_i, x_j) / sum_{k != i} K(x_i, x_k)`, with the cosine kernel `K = (1 + cos(x_i, x_j)) / 2`. The mean
    over the B^2 pairs, instead of the paper's sum, is that of its code, and the weight 3e4 belongs to it; the code also
    counts each sample as its own neighbour, which the paper and this function do not.

    Args:
        student: (B, ...), flattened here.
        teacher: (B, ...); its width may differ.
    """
    log_p, log_q = neighbour_log_probs(teacher), neighbour_log_probs(student)
    rows = len(log_p)
    others = 1 - torch.eye(rows, device=log_p.device)
    return (others * log_p.exp() * (log_p - log_q)).sum() / rows**2


def neighbour_log_probs(x: Tensor) -> Tensor:
    """(B, ...) -> (B, B): `log p(j|i)` in row i. The diagonal, which is no neighbour, is left to the caller."""
    x = unit(x.flatten(1))
    similarity = ((1 + x @ x.mT) / 2).clamp_min(SMALLEST)
    others = similarity - similarity.diagonal().diag()
    return similarity.log() - others.sum(1, keepdim=True).clamp_min(SMALLEST).log()


class ProbabilisticTransfer(Embedded):
    """See `pkt_loss`. Compares samples, so it depends on the batch's size."""

    summary = "which samples are neighbours, as probabilities (PKT, Passalis and Tefas 2018)"
    weight = 3e4

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return pkt_loss(student, teacher)
