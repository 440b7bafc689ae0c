"""Relational knowledge distillation: distances and angles between a batch's embeddings (RKD, Park et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import check_number
from understudy.objectives.features import EMBEDDINGS, EmbeddingObjective, TapPair
from understudy.objectives.precision import full_precision


@full_precision
def rkd_loss(student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """`distance * L_D + angle * L_A`, the mean Huber losses (delta 1) of two relations (section 3.2).

    - `psi_D(i, j) = ||x_i - x_j|| / mu`, mu the mean of the nonzero distances;
    - `psi_A(i, j, k) = cos` of the angle at j between i and k; an `angle` weight of 0 skips it.

    The means are over all B^2 pairs and B^3 triples. The cosines follow from the distances by the law of cosines, so
    that no (B, B, D) differences are stored, and identical samples, which have no direction, give 0 and no gradient.
    The method still needs (B, B, B) tensors: 67 MB each at B = 256, and four of them are kept for the backward pass.
    Inputs are (B, ...), flattened here; their widths may differ.

    >>> student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> round(rkd_loss(student, teacher).item(), 3)
    8.274
    """
    s, t = distances(student), distances(teacher)
    loss = distance * F.smooth_l1_loss(s, t)
    return loss + angle * F.smooth_l1_loss(cosines(s), cosines(t)) if angle else loss


def distances(x: Tensor) -> Tensor:
    """(B, ...) -> (B, B) Euclidean distances over the mean nonzero distance; exactly 0 between identical rows."""
    x = x.flatten(1)
    # by differences rather than the Gram matrix: precise for nearby samples, and the gradient at 0 is 0
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    mean = d.sum() / (d > 0).sum().clamp_min(1)
    return d / torch.where(mean > 0, mean, 1.0)


def cosines(d: Tensor) -> Tensor:
    """(B, B) distances -> (B, B, B): [j, i, k] is the cosine of the angle at j between i and k, or 0 if either is j."""
    square = d.square()
    inverse = 1 / torch.where(d > 0, d, torch.inf)
    opposite = square[:, :, None] + square[:, None, :] - square[None, :, :]
    return 0.5 * opposite * inverse[:, :, None] * inverse[:, None, :]


class RelationalKD(EmbeddingObjective):
    """`rkd_loss`. Compares the samples of a batch, so it depends on the batch size.

    Memory grows with the cube of the batch size; with the square only if `angle` is 0. The weights are the paper's.
    """

    summary = "distances and angles between samples (RKD, Park et al. 2019)"

    def __init__(self, pairs: Sequence[TapPair] = (EMBEDDINGS,), distance: float = 25.0, angle: float = 50.0) -> None:
        super().__init__(pairs)
        check_number("distance", distance)
        check_number("angle", angle)
        if distance + angle == 0:
            raise ValueError("distance and angle must not be 0 both")
        self.distance, self.angle = distance, angle

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return rkd_loss(student, teacher, self.distance, self.angle)
