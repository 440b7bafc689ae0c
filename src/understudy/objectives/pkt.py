"""Probabilistic knowledge transfer: the probability of each sample's neighbors (PKT, Passalis and Tefas 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.objectives.features import EMBEDDINGS, EmbeddingObjective, TapPair
from understudy.objectives.precision import full_precision, unit

MIN_SIMILARITY = 1e-7
"""Keeps the logarithm finite for opposite vectors."""


@full_precision
def pkt_loss(student: Tensor, teacher: Tensor, self_neighbor: bool = True) -> Tensor:
    """`1 / B^2 * sum_ij p(j|i) log(p(j|i) / q(j|i))`, p of the teacher and q of the student (section 3).

    `p(j|i) = K(x_i, x_j) / sum_k K(x_i, x_k)`, with the cosine kernel `K = (1 + cos(x_i, x_j)) / 2`. The mean over the
    B^2 pairs, instead of the paper's sum, follows the released code, as does the weight 3e4. That code counts each
    sample as its own neighbor; the paper leaves out j = i and k = i, as `self_neighbor=False` does. Inputs are
    (B, ...), flattened here.

    >>> student, teacher = torch.eye(3), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(pkt_loss(student, teacher).item(), 4), round(pkt_loss(student, teacher, self_neighbor=False).item(), 4)
    (0.012, 0.0126)
    """
    counted = torch.ones(len(student), len(student), device=student.device)
    if not self_neighbor:
        counted = counted - torch.eye(len(student), device=student.device)
    log_p, log_q = neighbor_log_probs(teacher, counted), neighbor_log_probs(student, counted)
    return (counted * log_p.exp() * (log_p - log_q)).sum() / len(log_p) ** 2


def neighbor_log_probs(x: Tensor, counted: Tensor) -> Tensor:
    """(B, ...) -> (B, B): `log p(j|i)` in row i, where `counted` is 1; what is elsewhere, the caller must ignore."""
    x = unit(x.flatten(1))
    similarity = ((1 + x @ x.mT) / 2).clamp_min(MIN_SIMILARITY)
    return similarity.log() - (counted * similarity).sum(1, keepdim=True).clamp_min(MIN_SIMILARITY).log()


class ProbabilisticTransfer(EmbeddingObjective):
    """`pkt_loss`. Compares the samples of a batch, so it depends on the batch size."""

    summary = "which samples are neighbors, as probabilities (PKT, Passalis and Tefas 2018)"
    weight = 3e4

    def __init__(self, pairs: Sequence[TapPair] = (EMBEDDINGS,), self_neighbor: bool = True) -> None:
        super().__init__(pairs)
        self.self_neighbor = self_neighbor

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return pkt_loss(student, teacher, self.self_neighbor)
