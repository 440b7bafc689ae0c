"""SimKD: the student's features in the place of the teacher's, before its classifier (Chen et al. 2022)."""

from __future__ import annotations

from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import Needs, Objective, Setting, teacher_of
from understudy.objectives.numerics import full_precision
from understudy.signals import Batch, Shapes, Signals

Shape = tuple[int, ...]


def simkd_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """`||P(f_s) - f_t||^2`, the mean over all elements (Chen et al. 2022, equation 2), in float32.

    Args:
        projected: (B, D) or (B, D, h, w), the student's feature after the projector.
        teacher: (B, D) or (B, D, H, W); averaged down to (h, w) where it is larger.
    """
    teacher = teacher.float()
    if teacher.shape[2:] != projected.shape[2:]:
        teacher = F.adaptive_avg_pool2d(teacher, projected.shape[2:])  # type: ignore[arg-type]
    return (projected.float() - teacher).square().mean()


class SimKD(Objective):
    """See `simkd_loss`. Needs no labels, and owns the projector P.

    P is the paper's bottleneck of three layers, D_s -> D_t / factor -> D_t / factor -> D_t, with BatchNorm and
    ReLU between them: linear layers for embeddings, 1x1, 3x3 and 1x1 convolutions for feature maps.

    What differs from the paper:

    - It matches the embeddings, which are exactly what the classifiers read, unless taps are named; the paper
      matches the last feature maps before the pooling.
    - P's last layer has no BatchNorm and ReLU, so that features of any sign can be reached.
    - The paper's student answers through P and the teacher's classifier, and has no head of its own. Here the
      student keeps its head, which this loss does not teach: add hard or soft targets for it, or answer with
      `teacher_head(simkd.embedding(student_signals))`, which is the paper's student.

    Args:
        student, teacher: shapes of a sample's features: (D,), or (C, H, W).
        factor: by how much the bottleneck is narrower than the teacher's features.
        student_tap, teacher_tap: where the features come from: "embedding", or the path of a layer.
    """

    summary = "the embedding, through a projector, against the teacher's (SimKD, Chen et al. 2022)"

    def __init__(
        self,
        student: Shape,
        teacher: Shape,
        *,
        factor: int = 2,
        student_tap: str = "embedding",
        teacher_tap: str = "embedding",
    ) -> None:
        super().__init__()
        if len(student) != len(teacher) or len(student) not in (1, 3):
            raise ValueError(
                f"SimKD compares two vectors or two feature maps; the student's {student_tap} is {student}, "
                f"the teacher's {teacher_tap} is {teacher}"
            )
        self.student_tap, self.teacher_tap = student_tap, teacher_tap
        self.needs = Needs(student=frozenset({student_tap}), teacher=frozenset({teacher_tap}))
        # a larger map of the student's is averaged down before P, a larger one of the teacher's after it
        self.places = tuple(min(s, t) for s, t in zip(student[1:], teacher[1:], strict=True))
        self.projector = _projector(student[0], max(teacher[0] // factor, 1), teacher[0], len(student) == 3)

    @classmethod
    def suited(cls, setting: Setting, **options: Any) -> Self:
        student = _shape_of(setting.student, "student", options.get("student_tap", "embedding"))
        teacher = _shape_of(setting.teacher, "teacher", options.get("teacher_tap", "embedding"))
        return cls(student, teacher, **options)

    def project(self, student: Signals) -> Tensor:
        """The student's feature as the teacher would have it, (B, D_t) or (B, D_t, h, w)."""
        return self._projected(_feature(self, student, self.student_tap))

    @full_precision
    def _projected(self, x: Tensor) -> Tensor:
        if self.places and x.shape[2:] != self.places:
            x = F.adaptive_avg_pool2d(x, self.places)  # type: ignore[arg-type]
        if self.training and x.numel() == x.shape[1]:  # one value a channel has no statistics of its own
            training_mode, _ = self.projector.training, self.projector.eval()
            projected = self.projector(x)
            self.projector.train(training_mode)
            return projected
        return self.projector(x)

    def embedding(self, student: Signals) -> Tensor:
        """What the teacher's classifier is to read in place of its own embedding, (B, D_t)."""
        projected = self.project(student)
        return projected if projected.dim() == 2 else projected.mean((2, 3))

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        return simkd_loss(self.project(student), _feature(self, teacher_of(self, teacher), self.teacher_tap))


def _projector(width: int, narrow: int, out: int, maps: bool) -> nn.Sequential:
    def layer(inp: int, out: int, kernel: int, bias: bool = False) -> nn.Module:
        return nn.Conv2d(inp, out, kernel, padding=kernel // 2, bias=bias) if maps else nn.Linear(inp, out, bias)

    norm = nn.BatchNorm2d if maps else nn.BatchNorm1d
    return nn.Sequential(
        layer(width, narrow, 1), norm(narrow), nn.ReLU(),
        layer(narrow, narrow, 3), norm(narrow), nn.ReLU(),
        layer(narrow, out, 1, bias=True),
    )  # fmt: skip


def _shape_of(shapes: Shapes, side: str, tap: str) -> Shape:
    if tap == "embedding":
        return (shapes.embedding,)
    if tap not in shapes.features:
        raise ValueError(f"the {side} has no tap {tap!r}; there are embedding, {', '.join(shapes.features)}")
    return shapes.features[tap]


def _feature(objective: Objective, signals: Signals, tap: str) -> Tensor:
    feature = signals.embedding if tap == "embedding" else signals.features.get(tap)
    if feature is None:
        raise ValueError(f"{type(objective).__name__} needs one {tap}, which these signals lack (an ensemble has none)")
    return feature
