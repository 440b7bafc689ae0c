"""Metrics: pure functions of logits (N, C) and targets (N,) int64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Fraction of samples whose largest logit is that of the target.

    >>> accuracy(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    0.5
    """
    return _mean(logits.argmax(1) == targets)


def top_k(logits: Tensor, targets: Tensor, k: int = 5) -> float:
    """Fraction of samples whose target is among the k largest logits.

    >>> top_k(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]]), torch.tensor([1, 0]), k=2)
    0.5
    """
    return _mean((logits.topk(k, dim=1).indices == targets[:, None]).any(1))


def nll(logits: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood of the targets, in nats.

    >>> round(nll(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])), 4)
    0.6931
    """
    return F.cross_entropy(logits.double(), targets).item()


def ece(logits: Tensor, targets: Tensor, bins: int = 15) -> float:
    """Expected calibration error, in [0, 1] (Guo et al. 2017).

    The mean gap between confidence and accuracy over equal-width bins (lower, upper] of the confidence,
    weighted by the number of samples in each bin.

    >>> round(ece(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1])), 2)
    0.5
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    gaps = (predicted == targets).double() - confidence
    inner = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)[1:-1]
    total = gaps.new_zeros(bins)
    total.index_add_(0, torch.bucketize(confidence, inner), gaps)
    return total.abs().sum().item() / len(targets)


def brier(logits: Tensor, targets: Tensor) -> float:
    """Mean squared distance between the probabilities and the one-hot target, in [0, 2] (Brier 1950).

    >>> brier(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
    0.5
    """
    one_hot = F.one_hot(targets, logits.shape[1])
    return (logits.double().softmax(1) - one_hot).square().sum(1).mean().item()


def agreement(logits: Tensor, other_logits: Tensor) -> float:
    """Fraction of samples for which two models predict the same class.

    >>> agreement(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    0.5
    """
    return _mean(logits.argmax(1) == other_logits.argmax(1))


def confusion(logits: Tensor, targets: Tensor) -> Tensor:
    """(C, C) int64 counts; rows are true classes, columns predicted ones.

    >>> confusion(torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    tensor([[1, 1],
            [0, 1]])
    """
    classes = logits.shape[1]
    return torch.bincount(targets * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)


def scores(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float | None]:
    """All metrics by name; `agreement` is None without a teacher, `top5` with fewer than six classes.

    >>> scores(torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1]))["errors"]
    0
    """
    return {
        "accuracy": accuracy(logits, targets),
        "errors": int((logits.argmax(1) != targets).sum()),
        "nll": nll(logits, targets),
        "ece": ece(logits, targets),
        "brier": brier(logits, targets),
        "agreement": None if teacher_logits is None else agreement(logits, teacher_logits),
        "top5": top_k(logits, targets, 5) if logits.shape[1] > 5 else None,
    }


def _mean(correct: Tensor) -> float:
    return correct.double().mean().item()
