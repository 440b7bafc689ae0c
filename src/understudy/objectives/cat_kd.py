"""CAT-KD: the class activation maps of student and teacher, at a low resolution (Guo et al. 2023)."""

from __future__ import annotations

from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import BuildContext, Needs, Objective, check_number, require_teacher
from understudy.objectives.features import tap_of
from understudy.objectives.precision import full_precision
from understudy.signals import Batch, Signals

CAMS = "cams"
"""The tap of the class activation maps: the classifier at each position of the maps before pooling."""


@full_precision
def cam_loss(student: Tensor, teacher: Tensor, resolution: int = 2) -> Tensor:
    """`mean (A_S - A_T)^2` of class activation maps (B, C, h, w), average-pooled to `resolution` squared.

    They are not normalized, as in the authors' code of CAT-KD. Sizes may differ.

    >>> import torch
    >>> cam_loss(torch.zeros(2, 5, 8, 8), torch.full((2, 5, 4, 4), 3.0))
    tensor(9.)
    """
    own, other = (F.adaptive_avg_pool2d(x, (resolution, resolution)) for x in (student, teacher))
    return F.mse_loss(own, other)


class ClassAttention(Objective):
    """`cam_loss`. Has no parameters; its gradient reaches the student's classifier. Needs no labels.

    The weight 15 is the authors' for ResNet-32x4 to 8x4; it depends on the pair.
    """

    needs = Needs(student=frozenset({CAMS}), teacher=frozenset({CAMS}))
    summary = "where the evidence for each class is (class activation maps, CAT-KD, Guo et al. 2023)"
    weight = 15.0

    def __init__(self, resolution: int = 2) -> None:
        super().__init__()
        check_number("resolution", resolution, least=1, most=1000, whole=True)
        self.resolution = resolution

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        for side, shapes in (("student", context.student), ("teacher", context.teacher)):
            if not shapes.maps:
                raise ValueError(
                    f"ClassAttention compares class activation maps, but the {side} pools no feature maps into what "
                    "its classifier reads: use an objective of logits or embeddings"
                )
        return cls(**options)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        other = tap_of(require_teacher(self, teacher), CAMS, "teacher")
        return cam_loss(tap_of(student, CAMS, "student"), other, self.resolution)
