"""Probabilistic knowledge transfer: the probability of each sample's neighbors (PKT, Passalis and Tefas 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.objectives.features import EmbeddingObjective
from understudy.objectives.precision import full_precision, unit

MIN_SIMILARITY = 1e-7
"""Keeps the logarithm finite for opposite vectors."""


@full_precision
def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`1 / B^2 * sum_i sum_{j != i} p(j|i) log(p(j|i) / q(j|i))`, p of the teacher and q of the student (section 3).

    `p(j|i) = K(x_i, x_j) / sum_{k != i} K(x_i, x_k)`, with the cosine kernel `K = (1 + cos(x_i, x_j)) / 2`. The mean
    over the B^2 pairs, instead of the paper's sum, follows the released code, as does the weight 3e4. That code also
    counts each sample as its own neighbor; the paper and this function do not. Inputs are (B, ...), flattened here.

    >>> student, teacher = torch.eye(3), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(pkt_loss(student, teacher).item(), 4)
    0.0126
    """
    log_p, log_q = neighbor_log_probs(teacher), neighbor_log_probs(student)
    rows = len(log_p)
    others = 1 - torch.eye(rows, device=log_p.device)
    return (others * log_p.exp() * (log_p - log_q)).sum() / rows**2


def neighbor_log_probs(x: Tensor) -> Tensor:
    """(B, ...) -> (B, B): `log p(j|i)` in row i. The caller must ignore the diagonal."""
    x = unit(x.flatten(1))
    similarity = ((1 + x @ x.mT) / 2).clamp_min(MIN_SIMILARITY)
    others = similarity - similarity.diagonal().diag()
    return similarity.log() - others.sum(1, keepdim=True).clamp_min(MIN_SIMILARITY).log()


class ProbabilisticTransfer(EmbeddingObjective):
    """`pkt_loss`. Compares the samples of a batch, so it depends on the batch size."""

    summary = "which samples are neighbors, as probabilities (PKT, Passalis and Tefas 2018)"
    weight = 3e4

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return pkt_loss(student, teacher)
