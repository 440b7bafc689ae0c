"""Relational distillation: distances and angles between a batch's embeddings (RKD, Park et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.numerics import full_precision
from understudy.objectives.taps import EMBEDDINGS, Embedded, TapPair


@full_precision
def rkd_loss(student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """`distance * L_D + angle * L_A`, means of the Huber loss (delta 1) of the two relations (section 3.2).

    - `psi_D(i, j) = ||x_i - x_j|| / mu`, mu the mean of the distances above 0;
    - `psi_A(i, j, k) = cos` of the angle at j between i and k.

    The means are over all B^2 pairs and B^3 triples. The cosines come from the distances by the law of cosines, so that
    no (B, B, D) differences are stored and identical samples, whose directions do not exist, give 0 and no gradient;
    still, (B, B, B) is in the method's nature: 67 MB at B = 256, and four of these are kept for the backward.

    Args:
        student: (B, ...), flattened here.
        teacher: (B, ...); its width may differ.
        distance, angle: the weights of the two losses, 0 to leave one out.
    """
    s, t = distances(student), distances(teacher)
    loss = distance * F.smooth_l1_loss(s, t)
    return loss + angle * F.smooth_l1_loss(cosines(s), cosines(t)) if angle else loss


def distances(x: Tensor) -> Tensor:
    """(B, ...) -> (B, B) Euclidean distances over the mean of those above 0; exactly 0 between identical rows."""
    x = x.flatten(1)
    # by differences, not by the Gram matrix: nearby samples keep their digits, and the gradient at 0 is 0
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    mean = d.sum() / (d > 0).sum().clamp_min(1)
    return d / torch.where(mean > 0, mean, 1.0)


def cosines(d: Tensor) -> Tensor:
    """(B, B) distances -> (B, B, B): at [j, i, k] the cosine of the angle at j between i and k, 0 where one is j."""
    square = d.square()
    inverse = 1 / torch.where(d > 0, d, torch.inf)
    opposite = square[:, :, None] + square[:, None, :] - square[None, :, :]
    return 0.5 * opposite * inverse[:, :, None] * inverse[:, None, :]


class RelationalKD(Embedded):
    """See `rkd_loss`. Compares samples, so it depends on the batch's size; memory grows with its cube.

    Args:
        distance: weight of the distances, 25 in the paper.
        angle: weight of the angles, 50 in the paper; without them (0) the memory grows with the square only.
    """

    summary = "distances and angles between samples (RKD, Park et al. 2019)"

    def __init__(self, pairs: Sequence[TapPair] = (EMBEDDINGS,), distance: float = 25.0, angle: float = 50.0) -> None:
        super().__init__(pairs)
        if distance < 0 or angle < 0 or distance + angle == 0:
            raise ValueError(f"distance and angle are weights, one above 0; they are {distance} and {angle}")
        self.distance, self.angle = distance, angle

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return rkd_loss(student, teacher, self.distance, self.angle)
