"""Squared distance between logits: soft targets in the limit of a high temperature."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, teacher_of
from understudy.signals import Batch, Signals


def logit_matching_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`1/(2 C) * ||z - v||^2` with both logits centred for each case (Hinton et al. 2015, equation 4).

    This is the limit of `soft_target_loss` for T much above the logits' size, in value and in gradient
    (`(z_i - v_i) / N`, after the factor T^2).

    Args:
        student_logits, teacher_logits: (B, C).

    Returns:
        A scalar, the mean over the batch.
    """
    difference = student_logits.float() - teacher_logits.float()
    difference = difference - difference.mean(-1, keepdim=True)
    return 0.5 * difference.square().mean(-1).mean()


class LogitMatching(Objective):
    """See `logit_matching_loss`. An ensemble is matched in the mean of its members' logits. Needs no labels."""

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "squared distance of centred logits: soft targets as T grows"

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        teacher = teacher_of(self, teacher)
        logits = (
            torch.stack([member.logits.float() for member in teacher.members]).mean(0)
            if teacher.members
            else teacher.logits
        )
        return logit_matching_loss(student.logits, logits)
