"""How good predictions are: pure functions of logits (N, C) and targets (N,) int64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Share of samples whose largest logit is the target's."""
    return _mean(logits.argmax(1) == targets)


def top_k(logits: Tensor, targets: Tensor, k: int = 5) -> float:
    """Share of samples whose target is among the k largest logits."""
    return _mean((logits.topk(k, dim=1).indices == targets[:, None]).any(1))


def nll(logits: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood of the targets, in nats."""
    return F.cross_entropy(logits.double(), targets).item()


def ece(logits: Tensor, targets: Tensor, bins: int = 15) -> float:
    """Expected calibration error, in [0, 1] (Guo et al. 2017).

    The mean gap between confidence and accuracy over equal-width bins (lower, upper] of the confidence,
    each bin weighted by its share of the samples.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    gaps = (predicted == targets).double() - confidence
    inner = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)[1:-1]
    total = gaps.new_zeros(bins)
    total.index_add_(0, torch.bucketize(confidence, inner), gaps)
    return total.abs().sum().item() / len(targets)


def brier(logits: Tensor, targets: Tensor) -> float:
    """Mean squared distance of the prediction from the one-hot target, in [0, 2] (Brier 1950)."""
    wanted = F.one_hot(targets, logits.shape[1])
    return (logits.double().softmax(1) - wanted).square().sum(1).mean().item()


def agreement(logits: Tensor, other_logits: Tensor) -> float:
    """Share of samples for which two models choose the same class."""
    return _mean(logits.argmax(1) == other_logits.argmax(1))


def confusion(logits: Tensor, targets: Tensor) -> Tensor:
    """(C, C) int64 counts; rows are the true classes, columns the chosen ones."""
    classes = logits.shape[1]
    return torch.bincount(targets * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)


def scores(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float | None]:
    """Every metric by name; `agreement` is None without a teacher, `top5` with fewer than six classes."""
    return {
        "accuracy": accuracy(logits, targets),
        "errors": int((logits.argmax(1) != targets).sum()),
        "nll": nll(logits, targets),
        "ece": ece(logits, targets),
        "brier": brier(logits, targets),
        "agreement": None if teacher_logits is None else agreement(logits, teacher_logits),
        "top5": top_k(logits, targets, 5) if logits.shape[1] > 5 else None,
    }


def _mean(hits: Tensor) -> float:
    return hits.double().mean().item()
