"""SimKD: the student's projected features replace the teacher's in front of its classifier (Chen et al. 2022)."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from understudy.objectives.base import BuildContext, Needs, Objective, check_number, require_teacher
from understudy.objectives.batch_norm import ChannelNorm
from understudy.objectives.features import Shape, pool_to, shape_of, tap_of
from understudy.objectives.precision import full_precision
from understudy.signals import Batch, Shapes, Signals

MAPS = "maps"
"""The tap of what is pooled into the embedding."""


def simkd_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """`||P(f_s) - f_t||^2`, the mean over all elements (Chen et al. 2022, equation 2), in float32.

    `projected` is (B, D) or (B, D, h, w); the teacher's (B, D, H, W) is average-pooled to (h, w) if larger.

    >>> import torch
    >>> simkd_loss(torch.zeros(2, 8, 4, 4), torch.full((2, 8, 8, 8), 3.0))
    tensor(9.)
    """
    teacher = pool_to(teacher.float(), tuple(projected.shape[2:]))
    return (projected.float() - teacher).square().mean()


class Projector(nn.Module):
    """From the student's features to the teacher's, by three layers with a bottleneck between: P of the paper.

    Of maps (B, D_s, h, w), 1x1, 3x3 and 1x1 convolutions, each with BatchNorm and ReLU, as released; maps larger than
    `size` are average-pooled to it before. Of embeddings (B, D_s), which the paper does not project, Linears; after the
    last of them there is neither, so that values of any sign can be matched.

    >>> import torch
    >>> Projector(16, bottleneck=12, out=24, size=(4, 4))(torch.zeros(2, 16, 8, 8)).shape
    torch.Size([2, 24, 4, 4])
    """

    def __init__(self, width: int, bottleneck: int, out: int, size: Shape) -> None:
        super().__init__()
        self.size, maps = size, len(size) == 2
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(((width, bottleneck), (bottleneck, bottleneck), (bottleneck, out))):
            last = index == 2
            if maps:
                kernel = 3 if index == 1 else 1
                layers.append(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))
            else:
                layers.append(nn.Linear(inputs, outputs, bias=last))
            layers += [ChannelNorm(outputs), nn.ReLU()] if maps or not last else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        smaller = tuple(map(min, x.shape[2:], self.size))
        return self.layers(pool_to(x, smaller))


def projector_for(student: Shape, teacher: Shape, factor: int = 2) -> Projector:
    """The projector between the features of these shapes; the bottleneck has 1 / `factor` of the teacher's channels."""
    check_number("factor", factor, least=1, whole=True)
    return Projector(student[0], max(teacher[0] // factor, 1), teacher[0], teacher[1:])


class SimKD(Objective):
    """`simkd_loss` of the feature maps that are pooled into the embedding, or of embeddings where there are none.

    A student that has the teacher's classifier behind a `Projector` (`Shapes.projected`) predicts through both, as the
    paper's: its own projection is matched, and nothing else is trained. For other students the objective owns a
    projector; their head is not trained by it, and the paper's student predicts with
    `teacher_head(simkd.embedding(student_signals))`. Needs no labels.

    `student` and `teacher` are shapes of a sample's features, (D,) or (C, H, W); the taps name where they come from.
    """

    summary = "the features before the teacher's classifier, which the student takes over (SimKD, Chen et al. 2022)"
    reuses_classifier = True

    def __init__(
        self, student: Shape, teacher: Shape, *, factor: int = 2,
        student_tap: str = "embedding", teacher_tap: str = "embedding", projected: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(student) != len(teacher) or len(student) not in (1, 3):
            raise ValueError(
                f"SimKD compares two vectors or two feature maps, but the student's {student_tap} is {student} and "
                f"the teacher's {teacher_tap} is {teacher}: choose other taps"
            )
        self.student_tap, self.teacher_tap = student_tap, teacher_tap
        self.needs = Needs(student=frozenset({student_tap}), teacher=frozenset({teacher_tap}))
        self.projector = nn.Identity() if projected else projector_for(student, teacher, factor)

    @classmethod
    def label_weight(cls, options: Any) -> float:
        return 0.0

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        named = {"student_tap", "teacher_tap"} & options.keys()
        usual = MAPS if context.student.maps and context.teacher.maps and not named else "embedding"
        taps: dict[str, Any] = {"student_tap": usual, "teacher_tap": usual} | options
        student = shape_of(context.student, taps["student_tap"], "student")
        teacher = shape_of(context.teacher, taps["teacher_tap"], "teacher")
        return cls(student, teacher, **taps, projected=context.student.projected and not named)

    def project(self, student: Signals) -> Tensor:
        """The student's features in the teacher's space, (B, D_t) or (B, D_t, h, w)."""
        return self._project(tap_of(student, self.student_tap, "student"))

    @full_precision
    def _project(self, x: Tensor) -> Tensor:
        return self.projector(x)

    def embedding(self, student: Signals) -> Tensor:
        """The input for the teacher's classifier in place of the teacher's own embedding, (B, D_t)."""
        projected = self.project(student)
        return projected if projected.dim() == 2 else projected.mean((2, 3))

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        target = tap_of(require_teacher(self, teacher), self.teacher_tap, "teacher")
        return simkd_loss(self.project(student), target)


def features_of(shapes: Shapes, other: Shapes) -> Shape:
    """The shape of what SimKD compares in a network with another: maps if both have any, else the embedding."""
    return shapes.maps if shapes.maps and other.maps else (shapes.embedding,)
