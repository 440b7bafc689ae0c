"""Soft targets: the teacher's distribution at a temperature (Hinton, Vinyals, Dean 2015)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, teacher_of
from understudy.signals import Batch, Signals

Mean = Literal["arithmetic", "geometric"]


def ensemble_log_probs(logits: Tensor, temperature: float = 1.0, mean: Mean = "arithmetic") -> Tensor:
    """Log of an ensemble's distribution at a temperature, in float32.

    Args:
        logits: (M, B, C), one slice for each of M members.
        temperature: T > 0; each member's distribution is taken at T before the mean (section 2 of the paper).
        mean: "arithmetic", the mean of the probabilities, or "geometric", the renormalised geometric mean.

    Returns:
        (B, C) log-probabilities.
    """
    scaled = logits.float() / temperature
    if mean == "geometric":
        return F.log_softmax(F.log_softmax(scaled, dim=-1).mean(0), dim=-1)
    return torch.logsumexp(F.log_softmax(scaled, dim=-1), dim=0) - math.log(logits.shape[0])


def teacher_log_probs(logits: Tensor, temperature: float, mean: Mean = "arithmetic") -> Tensor:
    """(B, C) log-probabilities at a temperature of one teacher's (B, C) or of an ensemble's (M, B, C) logits."""
    if logits.dim() == 2:
        return F.log_softmax(logits.float() / temperature, dim=-1)
    return ensemble_log_probs(logits, temperature, mean)


def teacher_logits_of(teacher: Signals) -> Tensor:
    """(B, C) logits of one teacher, or (M, B, C) of an ensemble's members."""
    return torch.stack([member.logits for member in teacher.members]) if teacher.members else teacher.logits


def soft_target_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, mean: Mean = "arithmetic"
) -> Tensor:
    """`T^2 * KL(p || q)`, `p = softmax(v / T)` of the teacher and `q = softmax(z / T)` of the student.

    The KL divergence has the gradient of the paper's cross-entropy with soft targets, equation (2):
    `dC/dz_i = (q_i - p_i) / T`; the factor T^2 keeps its size comparable with the hard targets' as T changes.
    Computed in float32 in log space: finite for any finite logits.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C), or (M, B, C) for an ensemble of M teachers.
        temperature: T > 0.
        mean: how an ensemble's distributions are joined.

    Returns:
        A scalar, the mean over the batch.
    """
    log_p = teacher_log_probs(teacher_logits, temperature, mean)
    log_q = F.log_softmax(student_logits.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


class SoftTargets(Objective):
    """The soft-target term; see `soft_target_loss`. Needs no labels.

    Args:
        temperature: T > 0.
        mean: how the distributions of an ensemble's members are joined.
    """

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "the teacher's distribution at a temperature (Hinton et al. 2015)"

    def __init__(self, temperature: float = 4.0, mean: Mean = "arithmetic") -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0; it is {temperature}")
        self.temperature = temperature
        self.mean: Mean = mean

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        teacher = teacher_of(self, teacher)
        return soft_target_loss(student.logits, teacher_logits_of(teacher), self.temperature, mean=self.mean)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}, mean={self.mean}"
