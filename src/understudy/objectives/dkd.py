"""Decoupled knowledge distillation: the target's share and the other classes apart (Zhao et al. 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, teacher_of
from understudy.objectives.soft_targets import teacher_log_probs, teacher_logits_of
from understudy.signals import Batch, Signals


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor | None,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """`T^2 * (alpha * TCKD + beta * NCKD)` (Zhao et al. 2022, equation 7).

    With p and q the teacher's and the student's distributions at T, and y the target:

    - TCKD = `KL((p_y, 1 - p_y) || (q_y, 1 - q_y))`, how sure the teacher is of the target;
    - NCKD = `KL(p' || q')`, where `p'_i = p_i / (1 - p_y)` for every i but y: how it spreads the rest.

    `KL(p || q) = TCKD + (1 - p_y) * NCKD` (equation 6), so plain soft targets silence NCKD where the teacher is
    sure. A row without a target (-1, or `targets` None) has nothing to decouple and costs the plain
    `T^2 * KL(p || q)` of soft targets.

    In float32 and in log space; the others are gathered without the target's column rather than masked by a
    large number, so it is finite for any finite logits.

    Args:
        student_logits: (B, C), C at least 2.
        teacher_logits: (B, C), or (M, B, C) for an ensemble of M teachers, whose distributions at T are averaged.
        targets: (B,) int64 in [0, C), or -1; or None.

    Returns:
        A scalar, the mean over the batch.
    """
    log_p = teacher_log_probs(teacher_logits, temperature)
    log_q = F.log_softmax(student_logits.float() / temperature, dim=-1)
    if targets is None:
        return temperature**2 * _kl(log_q, log_p).mean()
    labels = targets.clamp_min(0)[:, None]
    others = torch.arange(log_q.shape[1] - 1, device=log_q.device).expand(len(log_q), -1)
    others = others + (others >= labels)  # the columns of every class but the target
    p_target, p_rest, p_others = _split(log_p, labels, others)
    q_target, q_rest, q_others = _split(log_q, labels, others)
    tckd = _kl(torch.cat([q_target, q_rest], 1), torch.cat([p_target, p_rest], 1))
    decoupled = alpha * tckd + beta * _kl(q_others, p_others)
    return temperature**2 * torch.where(targets >= 0, decoupled, _kl(log_q, log_p)).mean()


def _split(log_probs: Tensor, labels: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logs of the target's share (B, 1), of all the others' (B, 1), and of the others among themselves (B, C-1)."""
    rest = log_probs.gather(1, others)
    total = rest.logsumexp(1, keepdim=True)
    return log_probs.gather(1, labels), total, F.log_softmax(rest, dim=1)


def _kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p || q) of each row."""
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)


class DKD(Objective):
    """See `dkd_loss`. Rows without a label are distilled by plain soft targets, so it can do without labels.

    The released code raises the loss linearly over the first 20 epochs; a schedule of weights is the loop's.

    Args:
        alpha, beta: weights of TCKD and NCKD; the paper's beta is 8 for wide ResNet teachers, 6 for most VGGs and
            WRNs, 2 for the narrow ResNets.
        temperature: T > 0.
    """

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "soft targets, the target's share and the other classes weighted apart (Zhao et al. 2022)"
    mixable = False  # it tells one class from all others

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0; it is {temperature}")
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        logits = teacher_logits_of(teacher_of(self, teacher))
        return dkd_loss(
            student.logits, logits, batch.targets, alpha=self.alpha, beta=self.beta, temperature=self.temperature
        )

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:g}, temperature={self.temperature:g}"
