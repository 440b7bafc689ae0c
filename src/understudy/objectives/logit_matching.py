"""Logit matching: squared distance of logits, the limit of KD at high temperature (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, require_teacher
from understudy.objectives.kd import teacher_logits_of
from understudy.signals import Batch, Signals


def logit_matching_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`1/(2 C) * ||z - v||^2` of (B, C) logits, centered per sample, a batch mean (Hinton et al. 2015, equation 4).

    The limit of `kd_loss` for T well above the scale of the logits, in value and in gradient (`(z_i - v_i) / C`,
    after the factor T^2).

    >>> import torch
    >>> logit_matching_loss(torch.tensor([[9.0, 7.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(0.5000)
    """
    difference = student_logits.float() - teacher_logits.float()
    difference = difference - difference.mean(-1, keepdim=True)
    return 0.5 * difference.square().mean(-1).mean()


class LogitMatching(Objective):
    """`logit_matching_loss`; for an ensemble, with the mean of its members' logits. Needs no labels."""

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "squared distance of centered logits, the limit of KD at high temperature (Hinton et al. 2015)"

    @classmethod
    def label_weight(cls, options: Mapping[str, Any]) -> float:
        return 0.1

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        logits = teacher_logits_of(require_teacher(self, teacher))
        return logit_matching_loss(student.logits, logits.float().mean(0) if logits.dim() == 3 else logits)
