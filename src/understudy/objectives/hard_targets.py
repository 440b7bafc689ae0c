"""Cross-entropy with the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective
from understudy.signals import Batch, Signals


def hard_target_loss(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the true classes at temperature 1, summed over the labelled rows, over B.

    Rows whose target is -1 are unlabelled and add nothing, so the mean is linear in the rows and the loss
    of a batch is the exact weighted mean of its micro-batches' losses.

    Args:
        logits: (B, C).
        targets: (B,) int64 in [0, C), or -1.
        label_smoothing: share of the target spread evenly over the classes.
    """
    total = F.cross_entropy(logits.float(), targets, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing)
    return total / logits.shape[0]


class HardTargets(Objective):
    """`H(y, softmax(z))`; see `hard_target_loss`. A batch without labels costs nothing.

    Of mixed inputs it is `w H(y, .) + (1 - w) H(y', .)`, y' being the partners' classes (Zhang et al. 2018).
    """

    needs = Needs(student=LOGITS, targets=True)
    summary = "cross-entropy with the labels"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        if batch.targets is None:
            return student.logits.float().sum() * 0.0
        own = hard_target_loss(student.logits, batch.targets, label_smoothing=self.label_smoothing)
        if batch.partners is None:
            return own
        other = hard_target_loss(student.logits, batch.partners, label_smoothing=self.label_smoothing)
        return batch.weight * own + (1 - batch.weight) * other
