"""Cross-entropy with the labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from understudy.objectives.base import LOGITS, Needs, Objective, check_number
from understudy.signals import Batch, Signals


def cross_entropy_loss(
    logits: Tensor, targets: Tensor, weight: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of (B, C) logits with (B,) labels at temperature 1, summed over labeled rows, divided by B.

    Rows whose target is -1 are unlabeled and add nothing. Dividing by B rather than by the number of labeled rows
    makes the loss of a batch the weighted mean of its micro-batches' losses. `weight` (B,) multiplies the rows' losses.
    `label_smoothing` is the share of the target spread evenly over the classes.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> round(cross_entropy_loss(logits, torch.tensor([0, -1])).item(), 3)  # the second row is unlabeled
    0.063
    """

    def loss(reduction: str) -> Tensor:
        return F.cross_entropy(
            logits.float(), targets, ignore_index=-1, reduction=reduction, label_smoothing=label_smoothing
        )

    total = loss("sum") if weight is None else weight @ loss("none")
    return total / logits.shape[0]


def mixed_loss(loss: Callable[[Tensor, Tensor, Tensor | None], Tensor], logits: Tensor, batch: Batch) -> Tensor:
    """`loss` with the labels; `w L(y) + (1 - w) L(y')` for mixed inputs, y' the partners' (Zhang et al. 2018)."""
    if batch.targets is None:
        return logits.float().sum() * 0.0
    if batch.partners is None or batch.weight is None:
        return loss(logits, batch.targets, None)
    return loss(logits, batch.targets, batch.weight) + loss(logits, batch.partners, 1 - batch.weight)


class CrossEntropy(Objective):
    """`cross_entropy_loss` with the labels, mixed for mixed inputs; 0 for a batch without labels."""

    needs = Needs(student=LOGITS, targets=True)
    summary = "cross-entropy with the labels"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        check_number("label_smoothing", label_smoothing, most=1)
        self.label_smoothing = label_smoothing

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        loss = partial(cross_entropy_loss, label_smoothing=self.label_smoothing)
        return mixed_loss(loss, student.logits, batch)
