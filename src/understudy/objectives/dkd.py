"""Decoupled knowledge distillation: the target class and the other classes, weighted separately (Zhao et al. 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, check_number, require_teacher
from understudy.objectives.kd import check_temperature, soft_targets, teacher_log_probs
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
    """`T^2 * (alpha * TCKD + beta * NCKD)` (Zhao et al. 2022, equation 7), a mean over the batch.

    With p and q the teacher's and the student's distributions at T, and y the target:

    - TCKD = `KL((p_y, 1 - p_y) || (q_y, 1 - q_y))`: the teacher's confidence in the target;
    - NCKD = `KL(p' || q')`, where `p'_i = p_i / (1 - p_y)` for all i but y: the distribution over the other classes.

    `KL(p || q) = TCKD + (1 - p_y) * NCKD` (equation 6), so plain KD suppresses NCKD where the teacher is confident.
    An unlabeled row (-1, or `targets` None) has nothing to decouple and costs plain KD, `T^2 * KL(p || q)`.

    Computed in float32 and in log space. The other classes are gathered rather than masked by a large number, so the
    loss is finite for any finite logits. Student logits are (B, C), C at least 2; the teacher's (B, C), or (M, B, C)
    for an ensemble of M teachers, whose distributions at T are averaged.

    >>> student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[4.0, 0.0, 2.0]])
    >>> round(dkd_loss(student, teacher, torch.tensor([0])).item(), 3)
    9.041
    """
    log_p = teacher_log_probs(teacher_logits, temperature)
    return _decoupled(student_logits, log_p, targets, alpha, beta, temperature)


def _decoupled(
    student_logits: Tensor, log_p: Tensor, targets: Tensor | None, alpha: float, beta: float, temperature: float
) -> Tensor:
    """`dkd_loss` with the teacher's log-probabilities at the temperature."""
    log_q = F.log_softmax(student_logits.float() / temperature, dim=-1)
    if targets is None:
        return temperature**2 * _kl(log_q, log_p).mean()
    labels = targets.clamp_min(0)[:, None]
    others = torch.arange(log_q.shape[1] - 1, device=log_q.device).expand(len(log_q), -1)
    others = others + (others >= labels)  # the columns of all classes but the target
    p_target, p_rest, p_others = _split(log_p, labels, others)
    q_target, q_rest, q_others = _split(log_q, labels, others)
    tckd = _kl(torch.cat([q_target, q_rest], 1), torch.cat([p_target, p_rest], 1))
    decoupled = alpha * tckd + beta * _kl(q_others, p_others)
    return temperature**2 * torch.where(targets >= 0, decoupled, _kl(log_q, log_p)).mean()


def _split(log_probs: Tensor, labels: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities: of the target (B, 1), of all others together (B, 1), and among the others (B, C - 1)."""
    rest = log_probs.gather(1, others)
    total = rest.logsumexp(1, keepdim=True)
    return log_probs.gather(1, labels), total, F.log_softmax(rest, dim=1)


def _kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p || q) of each row."""
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)


class DKD(Objective):
    """`dkd_loss`. Unlabeled rows are distilled by plain KD, so labels are optional.

    Its weight rises over the first twelfth of the training, as in the released code, where these are 20 of 240 epochs.
    The paper's beta is 8 for wide ResNet teachers, 6 for most VGGs and WRNs, 2 for the narrow ResNets.
    """

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "soft targets, with the target class and the others weighted separately (DKD, Zhao et al. 2022)"
    warmup = 1 / 12
    supports_mixup = False  # it separates one class from all others

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        check_temperature(temperature)
        check_number("alpha", alpha)
        check_number("beta", beta)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        log_p = soft_targets(require_teacher(self, teacher), self.temperature).log_probs
        return _decoupled(student.logits, log_p, batch.targets, self.alpha, self.beta, self.temperature)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:g}, temperature={self.temperature:g}"
