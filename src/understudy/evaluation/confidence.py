"""What a threshold on the confidence buys: accuracy on the examples that are answered, against their share."""

from __future__ import annotations

import torch
from torch import Tensor

_POINTS = 100


def coverage_curve(logits: Tensor, targets: Tensor, other: Tensor | None = None) -> dict[str, list[float]]:
    """Coverage and accuracy by threshold: answered are examples whose largest probability is at least the threshold.

    The thresholds are those that answer at least 1%, 2%, ..., 100% of the examples (the risk-coverage curve of
    Geifman & El-Yaniv 2017, with the accuracy for the risk). Examples of equal confidence are answered together.

    Args:
        logits: (N, C)
        targets: (N,) int64
        other: (N, C) logits of a network that answers the other examples.

    Returns:
        Lists of one length, with falling `threshold` and rising `coverage`: `accuracy` on the examples that are
        answered, and `routed`, that on all if `other` answers the rest; empty without it.

    >>> curve = coverage_curve(torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 1]))
    >>> [round(share, 2) for share in curve["coverage"]], [round(share, 2) for share in curve["accuracy"]]
    ([0.33, 0.67, 1.0], [1.0, 0.5, 0.67])
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    order = confidence.argsort(descending=True, stable=True)
    confidence, right = confidence[order], (predicted == targets)[order].double()
    n = len(order)
    ends = torch.tensor(sorted({-(-k * n // _POINTS) for k in range(1, _POINTS + 1)}))  # examples answered at least
    # of those that are as confident as the last one, all
    answered = torch.searchsorted(-confidence, -confidence[ends - 1], right=True).unique()
    correct = right.cumsum(0)[answered - 1]
    routed: list[float] = []
    if other is not None:
        rest = (other.argmax(1) == targets)[order].double().flip(0).cumsum(0).flip(0)
        rest = torch.cat([rest, rest.new_zeros(1)])
        routed = ((correct + rest[answered]) / n).tolist()
    return {
        "threshold": confidence[answered - 1].tolist(),
        "coverage": (answered.double() / n).tolist(),
        "accuracy": (correct / answered).tolist(),
        "routed": routed,
    }
