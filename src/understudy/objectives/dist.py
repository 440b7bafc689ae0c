"""Correlation in place of equality: relations between classes and between samples (DIST, Huang et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, teacher_of
from understudy.objectives.soft_targets import teacher_log_probs, teacher_logits_of
from understudy.signals import Batch, Signals


def pearson(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    """Pearson's correlation of each pair of rows, (N, D) and (N, D) -> (N,).

    A constant row, whose correlation is undefined, counts as uncorrelated and has no gradient.
    """
    x, y = _unit(x, eps), _unit(y, eps)
    return (x * y).sum(1)


def _unit(x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(1, keepdim=True)
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(eps)


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """`tau^2 * (beta * L_inter + gamma * L_intra)` (Huang et al. 2022, sections 4.1 and 4.2).

    With p and q (B, C) the teacher's and the student's distributions at tau and rho Pearson's correlation:

    - `L_inter = 1 - mean_b rho(q[b, :], p[b, :])`: the relations between the classes of a sample;
    - `L_intra = 1 - mean_c rho(q[:, c], p[:, c])`: the relations between the batch's samples in a class.

    Correlation is blind to scale and shift, so a weak student need not reach a strong teacher's confidence.
    In float32, finite for any finite logits. In a batch of one row L_intra is a constant.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C), or (M, B, C) for an ensemble of M teachers, whose distributions are averaged.
        temperature: tau > 0.
    """
    p = teacher_log_probs(teacher_logits, temperature).exp()
    q = (student_logits.float() / temperature).softmax(-1)
    inter = 1 - pearson(q, p).mean()
    intra = 1 - pearson(q.T, p.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)


class DIST(Objective):
    """See `dist_loss`. Needs no labels; compares the samples of a batch, so it depends on the batch's size.

    `weight` 2 beside hard targets of weight 1 makes the paper's beta = gamma = 2.

    Args:
        beta, gamma: weights of the relations between classes and between samples.
        temperature: tau > 0; 1 for ImageNet, 4 is worth a trial where the teacher is very sure (CIFAR-100).
    """

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "correlation of the probabilities, within samples and within classes (Huang et al. 2022)"
    weight = 2.0
    rowwise = False

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0; it is {temperature}")
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        logits = teacher_logits_of(teacher_of(self, teacher))
        return dist_loss(student.logits, logits, beta=self.beta, gamma=self.gamma, temperature=self.temperature)

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}, gamma={self.gamma:g}, temperature={self.temperature:g}"
