"""SRRL: the student's features must give the teacher's logits in its classifier (Yang et al. 2021)."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import BuildContext, Needs, Objective, require_teacher
from understudy.objectives.batch_norm import ChannelNorm
from understudy.objectives.features import Shape, pointwise, tap_of
from understudy.objectives.precision import full_precision
from understudy.objectives.simkd import MAPS, features_of
from understudy.signals import Batch, Signals


@full_precision
def srrl_loss(student: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor, teacher_logits: Tensor) -> Tensor:
    """`mean (s - t)^2 + mean (W s + b - z_t)^2`: feature matching and softmax regression with the teacher's classifier.

    `student` and `teacher` are embeddings (B, D), the student's after its connector; weight (C, D) and bias (C,) are
    the teacher's. The regression is the squared distance of logits, the form that the authors released.

    >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0]])
    >>> srrl_loss(student, teacher, torch.eye(2), torch.zeros(2), teacher)
    tensor(4.)
    """
    return F.mse_loss(student, teacher) + F.mse_loss(F.linear(student, weight, bias), teacher_logits)


class SoftmaxRegression(Objective):
    """`srrl_loss` of the mean of the last feature maps, after a connector, or of embeddings where there are no maps.

    The connector is a 1x1 convolution (or Linear), BatchNorm and ReLU. `classifier` is the teacher's, (C, D) weights
    and (C,) biases, and constant.
    """

    summary = "features that give the teacher's logits in its classifier (SRRL, Yang et al. 2021)"
    classifier_weight: Tensor
    classifier_bias: Tensor

    def __init__(self, student: Shape, classifier: tuple[Tensor, Tensor], *, tap: str) -> None:
        super().__init__()
        width = classifier[0].shape[1]
        self.tap = tap
        self.needs = Needs(frozenset({tap}), frozenset({"logits", tap}))
        first = pointwise(student[0], width, len(student))
        nn.init.kaiming_normal_(first.weight, mode="fan_out")
        self.connector = nn.Sequential(first, ChannelNorm(width), nn.ReLU())
        self.register_buffer("classifier_weight", classifier[0].detach().clone(), persistent=False)
        self.register_buffer("classifier_bias", classifier[1].detach().clone(), persistent=False)

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        if context.classifier is None:
            raise ValueError("SoftmaxRegression needs the teacher's linear classifier: name such a teacher")
        tap = MAPS if context.student.maps and context.teacher.maps else "embedding"
        return cls(features_of(context.student, context.teacher), context.classifier, tap=tap, **options)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        teacher = require_teacher(self, teacher)
        features = tap_of(student, self.tap, "student").float()
        with torch.autocast(features.device.type, enabled=False):
            sides = self.connector(features), tap_of(teacher, self.tap, "teacher").float()
            own, other = (x.flatten(2).mean(2) if x.dim() == 4 else x for x in sides)
        return srrl_loss(own, other, self.classifier_weight, self.classifier_bias, teacher.logits)
