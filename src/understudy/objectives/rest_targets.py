"""Soft targets for some of the classes: what keeps a specialist's knowledge of all others (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, teacher_of
from understudy.signals import Batch, Signals


def rest_target_loss(student_logits: Tensor, teacher_logits: Tensor, rest: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(p || q)` over the classes `rest` alone, p and q the distributions at T given that it is one of them.

    How much the rest has in all is left to the labels (section 6.1 of the paper: soft targets for the non-special
    classes in addition to hard targets).

    Args:
        student_logits, teacher_logits: (B, C).
        rest: (R,) int64, at least one class.
        temperature: T > 0.

    Returns:
        A scalar, the mean over the batch; 0 where the rest is a single class.
    """
    log_p = F.log_softmax(teacher_logits.float()[:, rest] / temperature, dim=-1)
    log_q = F.log_softmax(student_logits.float()[:, rest] / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


class RestTargets(Objective):
    """See `rest_target_loss`. Needs no labels.

    Args:
        special: indices of the classes that are left to the labels.
        classes: C.
        temperature: T > 0.
    """

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "the teacher's distribution over some classes, at a temperature"
    rest: Tensor

    def __init__(self, special: Sequence[int], classes: int, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0; it is {temperature}")
        rest = [i for i in range(classes) if i not in set(special)]
        if not rest:
            raise ValueError(f"all {classes} classes are special, so there is no rest to keep")
        self.temperature = temperature
        self.register_buffer("rest", torch.tensor(rest), persistent=False)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        teacher = teacher_of(self, teacher)
        return rest_target_loss(student.logits, teacher.logits, self.rest, self.temperature)

    def extra_repr(self) -> str:
        return f"{len(self.rest)} classes, temperature={self.temperature:g}"
