"""Binary cross-entropy with the labels: each class is an independent yes-or-no decision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective
from understudy.objectives.cross_entropy import mixed_loss
from understudy.signals import Batch, Signals


def binary_cross_entropy_loss(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """`-sum_c [y_c log s(z_c) + (1 - y_c) log(1 - s(z_c))]`, s the sigmoid, summed over labeled rows, divided by B.

    Classes are summed rather than averaged, so that gradients are of the same order as the softmax's. Logits are
    (B, C); targets are class indices (B,), or multi-hot (B, C) in [0, 1]. Unlabeled rows, with any -1, add nothing.
    `weight` (B,) multiplies the rows' losses.

    >>> logits, multi_hot = torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    >>> round(binary_cross_entropy_loss(logits, multi_hot).item(), 3)  # 3 log 2
    2.079
    """
    logits = logits.float()
    if targets.dim() == 1:
        labeled = targets >= 0
        one_hot = torch.zeros_like(logits).scatter_(1, targets.clamp_min(0)[:, None], 1.0)
    else:
        labeled = (targets >= 0).all(1)
        one_hot = targets.to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(1)
    losses = torch.where(labeled, losses, 0.0)
    return (losses.sum() if weight is None else weight @ losses) / logits.shape[0]


class BinaryCrossEntropy(Objective):
    """`binary_cross_entropy_loss` with the labels, mixed for mixed inputs; 0 for a batch without labels.

    Big Transfer pre-trains with it on data sets with several labels per image (Kolesnikov et al. 2020, section 3.2).
    """

    needs = Needs(student=LOGITS, targets=True)
    summary = "binary cross-entropy with the labels, a sigmoid per class"

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        return mixed_loss(binary_cross_entropy_loss, student.logits, batch)
