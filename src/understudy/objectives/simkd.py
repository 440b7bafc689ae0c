"""SimKD: the student's projected features replace the teacher's in front of its classifier (Chen et al. 2022)."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from understudy.objectives.base import BuildContext, Needs, Objective, check_number, require_teacher
from understudy.objectives.batch_norm import ChannelNorm
from understudy.objectives.features import Shape, pool_to, shape_of, tap_of
from understudy.objectives.precision import full_precision
from understudy.signals import Batch, Signals


def simkd_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """`||P(f_s) - f_t||^2`, the mean over all elements (Chen et al. 2022, equation 2), in float32.

    `projected` is (B, D) or (B, D, h, w); the teacher's (B, D, H, W) is average-pooled to (h, w) if larger.

    >>> import torch
    >>> simkd_loss(torch.zeros(2, 8, 4, 4), torch.full((2, 8, 8, 8), 3.0))
    tensor(9.)
    """
    teacher = pool_to(teacher.float(), tuple(projected.shape[2:]))
    return (projected.float() - teacher).square().mean()


class SimKD(Objective):
    """`simkd_loss`. Needs no labels, and owns the projector P.

    P is the paper's bottleneck of three layers, D_s -> D_t / factor -> D_t / factor -> D_t, with BatchNorm and
    ReLU between them: linear layers for embeddings, 1x1, 3x3 and 1x1 convolutions for feature maps.

    Differences from the paper:

    - It matches the embeddings, exactly what the classifiers read, unless taps are named; the paper matches the last
      feature maps before pooling.
    - P's last layer has no BatchNorm and ReLU, so that it can output features of any sign.
    - The paper's student predicts through P and the teacher's classifier, and has no head. Here the student keeps its
      head, which this loss does not train: add cross-entropy or KD to train it, or predict with
      `teacher_head(simkd.embedding(student_signals))`, which is the paper's student.

    `student` and `teacher` are shapes of a sample's features, (D,) or (C, H, W); the taps name where they come from.
    """

    summary = "the embedding, through a projector, regresses the teacher's (SimKD, Chen et al. 2022)"

    def __init__(
        self, student: Shape, teacher: Shape, *, factor: int = 2,
        student_tap: str = "embedding", teacher_tap: str = "embedding",
    ) -> None:  # fmt: skip
        super().__init__()
        check_number("factor", factor, least=1, whole=True)
        if len(student) != len(teacher) or len(student) not in (1, 3):
            raise ValueError(
                f"SimKD compares two vectors or two feature maps, but the student's {student_tap} is {student} and "
                f"the teacher's {teacher_tap} is {teacher}: choose other taps"
            )
        self.student_tap, self.teacher_tap = student_tap, teacher_tap
        self.needs = Needs(student=frozenset({student_tap}), teacher=frozenset({teacher_tap}))
        # larger maps of the student are pooled before P, larger maps of the teacher in the loss
        self.size = tuple(map(min, student[1:], teacher[1:]))
        self.projector = _projector(student[0], max(teacher[0] // factor, 1), teacher[0], len(student) == 3)

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        student = shape_of(context.student, options.get("student_tap", "embedding"), "student")
        teacher = shape_of(context.teacher, options.get("teacher_tap", "embedding"), "teacher")
        return cls(student, teacher, **options)

    def project(self, student: Signals) -> Tensor:
        """The student's features in the teacher's space, (B, D_t) or (B, D_t, h, w)."""
        return self._project(tap_of(student, self.student_tap, "student"))

    @full_precision
    def _project(self, x: Tensor) -> Tensor:
        return self.projector(pool_to(x, self.size))

    def embedding(self, student: Signals) -> Tensor:
        """The input for the teacher's classifier in place of the teacher's own embedding, (B, D_t)."""
        projected = self.project(student)
        return projected if projected.dim() == 2 else projected.mean((2, 3))

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        target = tap_of(require_teacher(self, teacher), self.teacher_tap, "teacher")
        return simkd_loss(self.project(student), target)


def _projector(width: int, bottleneck: int, out: int, maps: bool) -> nn.Sequential:
    def layer(inp: int, out: int, kernel: int, bias: bool = False) -> nn.Module:
        return nn.Conv2d(inp, out, kernel, padding=kernel // 2, bias=bias) if maps else nn.Linear(inp, out, bias)

    return nn.Sequential(
        layer(width, bottleneck, 1), ChannelNorm(bottleneck), nn.ReLU(),
        layer(bottleneck, bottleneck, 3), ChannelNorm(bottleneck), nn.ReLU(),
        layer(bottleneck, out, 1, bias=True),
    )  # fmt: skip
