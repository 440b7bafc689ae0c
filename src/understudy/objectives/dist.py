"""DIST: correlations between classes and between samples instead of exact matches (Huang et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, check_number, require_teacher
from understudy.objectives.kd import check_temperature, teacher_log_probs, teacher_logits_of
from understudy.objectives.ranks import all_gather
from understudy.signals import Batch, Signals


def pearson(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    """Pearson's correlation of each pair of rows, (N, D) and (N, D) -> (N,).

    A constant row, whose correlation is undefined, counts as uncorrelated and gets no gradient.

    >>> [round(r, 3) for r in pearson(torch.eye(2), torch.tensor([[1.0, -1.0], [5.0, 5.0]])).tolist()]
    [1.0, 0.0]
    """
    x, y = (rows - rows.mean(1, keepdim=True) for rows in (x, y))
    x, y = (rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(eps) for rows in (x, y))
    return (x * y).sum(1)


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """`tau^2 * (beta * L_inter + gamma * L_intra)` (Huang et al. 2022, sections 4.1 and 4.2).

    With p and q (B, C) the teacher's and the student's distributions at tau and rho Pearson's correlation:

    - `L_inter = 1 - mean_b rho(q[b, :], p[b, :])`: the relations between the classes of each sample;
    - `L_intra = 1 - mean_c rho(q[:, c], p[:, c])`: the relations between the samples of the batch in each class.

    Correlation ignores scale and shift, so a weak student need not match a strong teacher's confidence. Computed in
    float32; finite for any finite logits. In a batch of one row, L_intra is a constant. Teacher logits of (M, B, C) are
    an ensemble's, whose distributions are averaged.

    >>> student = torch.tensor([[3.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    >>> round(dist_loss(student, 0.5 * student).item(), 3)  # the same relations, less confident
    0.004
    """
    p = teacher_log_probs(teacher_logits, temperature).exp()
    q = (student_logits.float() / temperature).softmax(-1)
    inter = 1 - pearson(q, p).mean()
    intra = 1 - pearson(q.T, p.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)


class DIST(Objective):
    """`dist_loss`. Needs no labels; compares the samples of a batch, so it depends on the batch size.

    The default weight 2, for a cross-entropy term of weight 1, gives the paper's beta = gamma = 2. Temperature 1 is for
    ImageNet; try 4 if the teacher is very confident (CIFAR-100).
    """

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "correlation of the probabilities, within samples and within classes (DIST, Huang et al. 2022)"
    weight = 2.0
    per_sample = False

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        check_number("beta", beta)
        check_number("gamma", gamma)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        logits = teacher_logits_of(require_teacher(self, teacher))
        student_logits, logits = all_gather(student.logits.float(), logits.float().movedim(-2, 0))
        return dist_loss(
            student_logits, logits.movedim(0, -2), beta=self.beta, gamma=self.gamma, temperature=self.temperature
        )

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}, gamma={self.gamma:g}, temperature={self.temperature:g}"
