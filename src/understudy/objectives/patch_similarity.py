"""Which positions of an image are alike: rows of similarities among patches (lightly-train's local loss)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import check_number
from understudy.objectives.features import TapPair
from understudy.objectives.patches import PatchObjective
from understudy.objectives.precision import full_precision, unit


@full_precision
def patch_similarity_loss(student: Tensor, teacher: Tensor, temperature: float = 0.07) -> Tensor:
    """`mean KL` between the rows of the similarities among the positions of maps (B, C, h, w) and (B, D, h, w).

    Row i is the softmax of the cosines of position i with the others, at a temperature.

    >>> x = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    >>> patch_similarity_loss(7 * x, x).abs() < 1e-6
    tensor(True)
    """
    log_p, log_q = (_rows(x, temperature) for x in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def _rows(x: Tensor, temperature: float) -> Tensor:
    x = unit(x.flatten(2).mT)
    own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return F.log_softmax(torch.where(own, -1e4, x @ x.mT / temperature), -1)


class PatchSimilarity(PatchObjective):
    """`patch_similarity_loss`, the student's map resized to the teacher's grid; it has no parameters, and no labels."""

    summary = "which positions of an image are alike, as probabilities (patch-to-patch similarities)"

    def __init__(self, pairs: Sequence[TapPair], temperature: float = 0.07) -> None:
        super().__init__(pairs)
        check_number("temperature", temperature, least=1e-3, most=1e3)
        self.temperature = temperature

    def positions(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return patch_similarity_loss(student, teacher, self.temperature)
