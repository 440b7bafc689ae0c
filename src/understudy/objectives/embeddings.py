"""What objectives of embeddings share: a linear projector of the student's, and the teacher's space balanced."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor, nn

from understudy.objectives.balance import Balance, Kind
from understudy.objectives.base import BuildContext, Needs, Objective, require_teacher
from understudy.objectives.features import tap_of
from understudy.signals import Batch, Signals

EMBEDDING = frozenset({"embedding"})


class EmbeddingObjective(Objective):
    """Base of objectives that compare the student's embedding, through `project`, with the teacher's balanced one.

    `fit` measures the teacher's space once; until then its embeddings are taken as they are. Labels are not read.

    Args:
        student_dim, teacher_dim: widths of the embeddings.
        balance: see `balancing`.
    """

    needs = Needs(student=EMBEDDING, teacher=EMBEDDING)
    fitted = True
    labels_beside: ClassVar[bool] = False
    synced_buffers = frozenset(f"balance.{name}" for name in Balance.BUFFERS)

    def __init__(self, student_dim: int, teacher_dim: int, balance: Kind) -> None:
        super().__init__()
        self.balance = Balance(teacher_dim, balance)
        self.project = nn.Linear(student_dim, teacher_dim)

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        return cls(*widths_of(context), **options)

    def fit(self, teacher: Signals) -> None:
        self.balance.fit(tap_of(teacher, "embedding", "teacher").float())

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        own = tap_of(student, "embedding", "student")
        return self.compare(own, tap_of(require_teacher(self, teacher), "embedding", "teacher"))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of embeddings (B, S) and (B, T), neither projected nor balanced."""
        raise NotImplementedError(f"{type(self).__name__} must define compare")


def widths_of(context: BuildContext) -> tuple[int, int]:
    """The widths of the student's and the teacher's embeddings; raises a ValueError where there is none."""
    widths = context.student.embedding, context.teacher.embedding
    if not widths[1]:
        raise ValueError("the teacher has no embedding; label the data with --embedding, or give the teacher itself")
    return widths
