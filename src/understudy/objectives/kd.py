"""Knowledge distillation: the teacher's softened distribution (KD, Hinton, Vinyals, Dean 2015)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, check_number, require_teacher
from understudy.signals import Batch, Signals

Mean = Literal["arithmetic", "geometric"]


def ensemble_log_probs(logits: Tensor, temperature: float = 1.0, mean: Mean = "arithmetic") -> Tensor:
    """(M, B, C) logits of an ensemble -> (B, C) log-probabilities at a temperature, in float32.

    Each member's distribution is taken at the temperature before averaging (section 2 of the paper). The mean is
    "arithmetic", of the probabilities, or "geometric", renormalized.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[0.0, 2.0]]])
    >>> [round(p, 3) for p in ensemble_log_probs(logits).exp()[0].tolist()]
    [0.31, 0.69]
    """
    scaled = logits.float() / temperature
    if mean == "geometric":
        return F.log_softmax(F.log_softmax(scaled, dim=-1).mean(0), dim=-1)
    return torch.logsumexp(F.log_softmax(scaled, dim=-1), dim=0) - math.log(logits.shape[0])


def teacher_log_probs(logits: Tensor, temperature: float, mean: Mean = "arithmetic") -> Tensor:
    """(B, C) log-probabilities at a temperature, from one teacher's (B, C) or an ensemble's (M, B, C) logits."""
    if logits.dim() == 2:
        return F.log_softmax(logits.float() / temperature, dim=-1)
    return ensemble_log_probs(logits, temperature, mean)


def teacher_logits_of(teacher: Signals) -> Tensor:
    """(B, C) logits of one teacher, or (M, B, C) of an ensemble's members."""
    return torch.stack([member.logits for member in teacher.members]) if teacher.members else teacher.logits


def check_temperature(temperature: float) -> None:
    check_number("temperature", temperature, least=1e-3, most=1e3)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, mean: Mean = "arithmetic") -> Tensor:
    """`T^2 * KL(p || q)`, `p = softmax(v / T)` of the teacher and `q = softmax(z / T)` of the student, a batch mean.

    The KL divergence has the gradient of the paper's cross-entropy with soft targets, equation (2):
    `dC/dz_i = (q_i - p_i) / T`. The factor T^2 keeps the gradients comparable with those of cross-entropy as T
    changes. Computed in float32 and in log space; finite for any finite logits. Student logits are (B, C); the
    teacher's (B, C), or (M, B, C) for an ensemble of M teachers, averaged as in `ensemble_log_probs`.

    >>> student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[4.0, 0.0, 2.0]])
    >>> round(kd_loss(student, teacher, temperature=4.0).item(), 3)
    0.789
    """
    return soft_target_loss(
        student_logits, SoftTargets.of(teacher_log_probs(teacher_logits, temperature, mean)), temperature
    )


class SoftTargets(NamedTuple):
    """A teacher's distribution at a temperature: its (B, C) log-probabilities, and minus its probabilities."""

    log_probs: Tensor
    minus_probs: Tensor

    @classmethod
    def of(cls, log_probs: Tensor) -> SoftTargets:
        return cls(log_probs, -log_probs.exp())


def soft_targets(teacher: Signals, temperature: float, mean: Mean = "arithmetic") -> SoftTargets:
    """The distribution of a teacher or an ensemble at a temperature, computed once for all students of a step."""
    return teacher.once(
        ("soft targets", temperature, mean),
        lambda: SoftTargets.of(teacher_log_probs(teacher_logits_of(teacher), temperature, mean)),
    )


def soft_target_loss(student_logits: Tensor, targets: SoftTargets, temperature: float) -> Tensor:
    """`kd_loss` with a distribution that was computed before, at the same temperature."""
    log_q = F.log_softmax(student_logits.float() / temperature, dim=-1)
    # F.kl_div would exponentiate the targets for each student; with -p, the gradient of log_q takes no negation
    return temperature**2 * (((log_q - targets.log_probs) * targets.minus_probs).sum() / len(log_q))


class KD(Objective):
    """`kd_loss`. Needs no labels."""

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "soft targets, the teacher's distribution at a temperature (KD, Hinton et al. 2015)"

    def __init__(self, temperature: float = 4.0, mean: Mean = "arithmetic") -> None:
        super().__init__()
        check_temperature(temperature)
        if mean not in get_args(Mean):
            raise ValueError(f"mean must be one of {', '.join(get_args(Mean))}; it is {mean!r}")
        self.temperature = temperature
        self.mean: Mean = mean

    @classmethod
    def label_weight(cls, options: Mapping[str, Any]) -> float:
        return 0.1

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        targets = soft_targets(require_teacher(self, teacher), self.temperature, self.mean)
        return soft_target_loss(student.logits, targets, self.temperature)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}, mean={self.mean}"


def partial_kd_loss(student_logits: Tensor, teacher_logits: Tensor, rest: Tensor, temperature: float) -> Tensor:
    """`kd_loss` over the classes `rest` (R,) only, on distributions renormalized over them.

    The total probability of these classes is left to the labels (section 6.1 of the paper: soft targets for the
    non-special classes in addition to hard targets).

    >>> student, teacher = torch.tensor([[9.0, 1.0, 0.0]]), torch.tensor([[0.0, 3.0, 2.0]])
    >>> partial_kd_loss(student, teacher, rest=torch.tensor([1, 2]), temperature=1.0)  # class 0 is ignored
    tensor(0.)
    """
    return kd_loss(student_logits[:, rest], teacher_logits[:, rest], temperature)


class PartialKD(Objective):
    """`partial_kd_loss` over all classes but the `special` ones, for specialist models. Needs no labels."""

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "the teacher's distribution over some of the classes, at a temperature"
    rest: Tensor

    def __init__(self, special: Sequence[int], classes: int, temperature: float = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        rest = [i for i in range(classes) if i not in set(special)]
        if not rest:
            raise ValueError(f"all {classes} classes are special: leave out at least one")
        self.temperature = temperature
        self.register_buffer("rest", torch.tensor(rest), persistent=False)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        teacher = require_teacher(self, teacher)
        return partial_kd_loss(student.logits, teacher.logits, self.rest, self.temperature)

    def extra_repr(self) -> str:
        return f"{len(self.rest)} classes, temperature={self.temperature:g}"
