"""Embeddings regressed on the teacher's balanced ones, by cosine and smooth-L1 (Theia, Shang et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.balance import Balance, Kind
from understudy.objectives.base import BuildContext, Needs, Objective, check_number, require_teacher
from understudy.objectives.features import tap_of
from understudy.objectives.precision import full_precision, to_float32, unit
from understudy.signals import Batch, Signals

EMBEDDING = frozenset({"embedding"})
_BALANCED = frozenset(f"balance.{name}" for name in Balance.BUFFERS)


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


class Cosine(Objective):
    """`cosine_loss` between the student's embedding, through a linear projector, and the teacher's, balanced.

    `fit` measures the teacher's space once; until then its embeddings are taken as they are. Labels are not read.

    Args:
        student_dim, teacher_dim: widths of the embeddings.
        smooth: the share of the smooth-L1 term.
        balance: see `balancing`.
    """

    needs = Needs(student=EMBEDDING, teacher=EMBEDDING)
    summary = "the embedding, through a projector, points where the teacher's does (cosine; Theia, Shang et al. 2024)"
    fitted = True
    labels_beside: ClassVar[bool] = False
    synced_buffers = _BALANCED

    def __init__(
        self, student_dim: int, teacher_dim: int, *, smooth: float = 0.1, balance: Kind = "standardize"
    ) -> None:
        super().__init__()
        check_number("smooth", smooth, most=1)
        self.smooth = smooth
        self.balance = Balance(teacher_dim, balance)
        self.project = nn.Linear(student_dim, teacher_dim)

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        return cls(*widths_of(context), **options)

    def fit(self, teacher: Signals) -> None:
        self.balance.fit(tap_of(teacher, "embedding", "teacher").float())

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        own = tap_of(student, "embedding", "student")
        return self._loss(own, tap_of(require_teacher(self, teacher), "embedding", "teacher"))

    @full_precision
    def _loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return cosine_loss(self.project(to_float32(student)), self.balance(teacher), self.smooth)

    def extra_repr(self) -> str:
        return f"smooth={self.smooth:g}"


def widths_of(context: BuildContext) -> tuple[int, int]:
    """The widths of the student's and the teacher's embeddings; raises a ValueError where there is none."""
    widths = context.student.embedding, context.teacher.embedding
    if not widths[1]:
        raise ValueError("the teacher has no embedding; label the data with --embedding, or give the teacher itself")
    return widths
