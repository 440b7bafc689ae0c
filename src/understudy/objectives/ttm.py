"""Transformed teacher matching: the teacher's distribution to a power, the student's as it is (Zheng and Yang 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, check_number, require_teacher
from understudy.objectives.kd import teacher_log_probs, teacher_logits_of
from understudy.signals import Batch, Signals


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, gamma: float = 0.1, weighted: bool = False) -> Tensor:
    """`mean U^w KL(p^gamma / U || q)`, `U = sum_c p_c^gamma`; w is 1 if `weighted` (WTTM), else 0 (TTM).

    p and q are the teacher's and the student's distributions at temperature 1 (Zheng and Yang 2024). A power of gamma
    is a temperature of 1 / gamma for the teacher alone. U is large where the teacher is smooth, so WTTM gives more
    weight to uncertain samples. Student logits are (B, C); the teacher's (B, C), or (M, B, C) of an ensemble, whose
    distributions are averaged.

    >>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 0.0]])
    >>> round(ttm_loss(student, teacher).item(), 4), round(ttm_loss(student, teacher, weighted=True).item(), 4)
    (0.2192, 0.3519)
    """
    powers = gamma * teacher_log_probs(teacher_logits, 1.0)
    log_sum = torch.logsumexp(powers, dim=1)
    log_p = powers - log_sum[:, None]
    log_q = F.log_softmax(student_logits.float(), dim=1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1)
    return (log_sum.exp() * divergence if weighted else divergence).mean()


class TransformedTeacher(Objective):
    """`ttm_loss`. Needs no labels. The weight 45 goes with gamma 0.1 of TTM; they depend on the pair."""

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "the teacher's distribution to a power, without a temperature of the student (TTM, Zheng and Yang 2024)"
    weight = 45.0

    def __init__(self, gamma: float = 0.1, weighted: bool = False) -> None:
        super().__init__()
        check_number("gamma", gamma, above=True, most=100)
        self.gamma, self.weighted = gamma, weighted

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        logits = teacher_logits_of(require_teacher(self, teacher))
        return ttm_loss(student.logits, logits, self.gamma, self.weighted)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}, weighted={self.weighted}"
