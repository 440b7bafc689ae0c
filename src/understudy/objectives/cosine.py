"""Embeddings regressed on the teacher's balanced ones, by cosine and smooth-L1 (Theia, Shang et al. 2024)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.balance import Kind
from understudy.objectives.base import check_number
from understudy.objectives.embeddings import EmbeddingObjective
from understudy.objectives.precision import full_precision, to_float32, unit


@full_precision
def cosine_loss(student: Tensor, teacher: Tensor, smooth: float = 0.1) -> Tensor:
    """`(1 - smooth) (1 - cos(s, t)) + smooth * smooth_l1(s, t)`, a mean over rows (Theia, section 3.1).

    Both are (B, D). The teacher's rows should be standardized, or the smooth-L1 term depends on their scale.

    >>> import torch
    >>> cosine_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), smooth=0.0)
    tensor(1.)
    """
    loss = 1 - (unit(student) * unit(teacher)).sum(1).mean()
    return (1 - smooth) * loss + smooth * F.smooth_l1_loss(student, teacher) if smooth else loss


class Cosine(EmbeddingObjective):
    """`cosine_loss` between the student's embedding, through a linear projector, and the teacher's, balanced.

    Args:
        student_dim, teacher_dim: widths of the embeddings.
        smooth: the share of the smooth-L1 term.
        balance: see `balancing`.
    """

    summary = "the embedding, through a projector, points where the teacher's does (cosine; Theia, Shang et al. 2024)"

    def __init__(
        self, student_dim: int, teacher_dim: int, *, smooth: float = 0.1, balance: Kind = "standardize"
    ) -> None:
        super().__init__(student_dim, teacher_dim, balance)
        check_number("smooth", smooth, most=1)
        self.smooth = smooth

    @full_precision
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return cosine_loss(self.project(to_float32(student)), self.balance(teacher), self.smooth)

    def extra_repr(self) -> str:
        return f"smooth={self.smooth:g}"
