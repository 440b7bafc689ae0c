"""Correlations between the logits of classes, compared with the teacher's (CRD, Tian et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.signals import Signals

_MAX_SIZE = 100  # cells per side of a map; with more classes, blocks of neighbors are averaged
_PAIRS = 8


def class_correlation(logits: Tensor) -> Tensor:
    """(C, C) float64 Pearson correlations, over samples, between the logits (N, C) of classes; 0 for a constant logit.

    >>> class_correlation(torch.tensor([[0.0, 0.0], [1.0, -2.0], [2.0, -4.0]])).round(decimals=3)
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    centered = logits.double() - logits.double().mean(0)
    # the mean of equal numbers may be off by a rounding error, which must not count as variation
    scale = logits.double().abs().amax(0) * len(logits) ** 0.5 * 1e-12
    norm = centered.norm(dim=0)
    unit = torch.where(norm > scale, centered / norm, 0.0)
    return (unit.T @ unit).clamp(-1, 1).fill_diagonal_(1)


def correlation_difference(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference of two (C, C) correlations off the diagonal, in [0, 2]; 0 with a single class.

    >>> correlation_difference(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), torch.tensor([[1.0, 0.25], [0.25, 1.0]]))
    0.25
    """
    classes = len(one)
    return (one - other).abs().fill_diagonal_(0).sum().item() / max(classes * (classes - 1), 1)


def mean_logits(signals: Signals) -> Tensor:
    """(B, C) float32 logits; of an ensemble the mean, as log-probabilities are shifted and correlate differently."""
    return torch.stack([member.logits.float() for member in signals.members or (signals,)]).mean(0)


def correlation_maps(
    teacher: Tensor, students: Sequence[tuple[str, str, Sequence[Tensor]]], classes: Sequence[str]
) -> dict[str, Any]:
    """The `Correlations` of a report: means over seeds of the (C, C) `class_correlation`.

    `maps` are those of the teacher and of the first student of each role, and `differences` are |student - teacher| for
    each student, given as (name, role, correlations of each seed). `pairs` are the teacher's most correlated pairs of
    classes, with their correlations in each of the maps.
    """
    first = {role: (name, torch.stack(list(seeds)).mean(0)) for name, role, seeds in reversed(students)}
    shown = [("teacher", "teacher", teacher)]
    shown += [(name, role, first[role][1]) for name, role, _ in students if first[role][0] == name]
    differences = [
        (name, role, torch.stack([(seed - teacher).abs() for seed in seeds]).mean(0)) for name, role, seeds in students
    ]
    rows, columns = torch.triu_indices(len(teacher), len(teacher), offset=1)
    closest = teacher[rows, columns].argsort(descending=True, stable=True)[:_PAIRS]
    pairs = [
        {"classes": [classes[i], classes[j]], "values": [round(matrix[i, j].item(), 4) for *_, matrix in shown]}
        for i, j in zip(rows[closest].tolist(), columns[closest].tolist(), strict=True)
    ]
    return {
        "classes": list(classes),
        "maps": [_map(*each) for each in shown],
        "differences": [_map(*each) for each in differences],
        "pairs": pairs,
    }


def _map(name: str, role: str, matrix: Tensor) -> dict[str, Any]:
    if len(matrix) > _MAX_SIZE:
        matrix = F.adaptive_avg_pool2d(matrix[None], _MAX_SIZE)[0]
    return {"name": name, "role": role, "matrix": [[round(x, 3) for x in row] for row in matrix.tolist()]}
