"""Multi-level logit distillation: samples, the batch and the classes, at several temperatures (Jin et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, check_number, require_teacher
from understudy.objectives.kd import SoftTargets, soft_target_loss, teacher_log_probs, teacher_logits_of
from understudy.objectives.precision import full_precision
from understudy.objectives.ranks import all_gather
from understudy.signals import Batch, Signals

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


@full_precision
def multi_level_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
    correlation: float = 0.5,
) -> Tensor:
    """`sum_T T^2 KL(p || q) + correlation * (||P P' - Q Q'||^2 / B + ||P'P - Q'Q||^2 / C)` (Jin et al. 2023).

    P and Q are the (B, C) distributions of the teacher and the student at T: the divergence of each sample, the
    similarities of the batch's samples, and those of the classes. In the released code a threshold on the confidence
    multiplies the two last by the share of the samples, or classes, below the median, hence 1/2. Student logits are
    (B, C); the teacher's (B, C), or (M, B, C) of an ensemble, whose distributions are averaged.

    >>> student, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> round(multi_level_loss(student, teacher + 5).item(), 4)  # a shift of all logits changes nothing
    0.0
    """
    rows, classes = student_logits.shape
    losses = []
    for temperature in temperatures:
        targets = SoftTargets.of(teacher_log_probs(teacher_logits, temperature))
        p, q = -targets.minus_probs, (student_logits / temperature).softmax(1)
        batch = (p @ p.mT - q @ q.mT).square().sum() / rows
        among = (p.mT @ p - q.mT @ q).square().sum() / classes
        losses.append(soft_target_loss(student_logits, targets, temperature) + correlation * (batch + among))
    return torch.stack(losses).sum()


class MultiLevel(Objective):
    """`multi_level_loss` at five temperatures. Compares the samples of a batch. Needs no labels.

    The weight is 0.9 beside labels of 0.1, as released.

    The released code shows a weakly and a strongly augmented view of each sample in a step; here it is one view.
    """

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "soft targets at five temperatures, with similarities of samples and of classes (MLKD, Jin et al. 2023)"
    weight = 0.9
    per_sample = False

    def __init__(self, correlation: float = 0.5) -> None:
        super().__init__()
        check_number("correlation", correlation)
        self.correlation = correlation

    @classmethod
    def label_weight(cls, options: Mapping[str, Any]) -> float:
        return 0.1

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        logits = teacher_logits_of(require_teacher(self, teacher))
        own, logits = all_gather(student.logits.float(), logits.float().movedim(-2, 0))
        return multi_level_loss(own, logits.movedim(0, -2), correlation=self.correlation)
