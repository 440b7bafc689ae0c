"""A yes or no for each class: cross-entropy of sigmoids with the labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective
from understudy.signals import Batch, Signals


def sigmoid_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """`-sum_c [y_c log s(z_c) + (1 - y_c) log(1 - s(z_c))]`, s being the sigmoid, summed over the rows, over B.

    Classes are summed, not averaged, so that a row's gradient has the size of the softmax's. Rows without a label add
    nothing: a class index of -1, or any -1 among a row's targets.

    Args:
        logits: (B, C).
        targets: (B,) int64 in [0, C), or -1, where each sample has one label; or (B, C) in [0, 1], 1 for each of the
            classes that a sample shows.
    """
    logits = logits.float()
    if targets.dim() == 1:
        labelled = targets >= 0
        hot = torch.zeros_like(logits).scatter_(1, targets.clamp_min(0)[:, None], 1.0)
    else:
        labelled = (targets >= 0).all(1)
        hot = targets.to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, hot, reduction="none").sum(1)
    return torch.where(labelled, each, 0.0).sum() / logits.shape[0]


class SigmoidTargets(Objective):
    """Cross-entropy of each class's sigmoid with the labels; see `sigmoid_loss`. A batch without labels costs nothing.

    Big Transfer pre-trains with it on sets whose images show several things (Kolesnikov et al. 2020, section 3.2). Of
    mixed inputs it is `w L(y) + (1 - w) L(y')`, y' being the partners' classes.
    """

    needs = Needs(student=LOGITS, targets=True)
    summary = "sigmoid cross-entropy with the labels, a yes or no for each class"

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        if batch.targets is None:
            return student.logits.float().sum() * 0.0
        own = sigmoid_loss(student.logits, batch.targets)
        if batch.partners is None:
            return own
        return batch.weight * own + (1 - batch.weight) * sigmoid_loss(student.logits, batch.partners)
