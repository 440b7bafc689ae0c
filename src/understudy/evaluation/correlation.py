"""Which classes a network answers alike: correlations of its logits, beside its teacher's (CRD, Tian et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.signals import Signals

_SIDE = 100  # cells a side of a map that is kept; of more classes, blocks of neighbours are averaged
_PAIRS = 8


def class_correlation(logits: Tensor) -> Tensor:
    """Pearson's correlation over samples between the logits of every two classes.

    Args:
        logits: (N, C).

    Returns:
        (C, C) float64, symmetric, in [-1, 1], 1 on the diagonal. A logit that never changes correlates with nothing.
    """
    centred = logits.double() - logits.double().mean(0)
    # the mean of equal numbers can miss them by a rounding error, which must not pass for a change
    scale = logits.double().abs().amax(0) * len(logits) ** 0.5 * 1e-12
    norm = centred.norm(dim=0)
    unit = torch.where(norm > scale, centred / norm, 0.0)
    return (unit.T @ unit).clamp(-1, 1).fill_diagonal_(1)


def correlation_difference(one: Tensor, other: Tensor) -> float:
    """Mean of |one - other| over the C (C - 1) entries off the diagonal of two (C, C) correlations, in [0, 2].

    The diagonals are equal and would only dilute it. 0 below two classes.
    """
    classes = len(one)
    return (one - other).abs().fill_diagonal_(0).sum().item() / max(classes * (classes - 1), 1)


def mean_logits(signals: Signals) -> Tensor:
    """(B, C) float32 logits; of an ensemble the mean of its members', as its joined answer is a log-probability.

    Correlations tell the two apart: a constant taken off all of a sample's logits changes them.
    """
    return torch.stack([one.logits.float() for one in signals.members or (signals,)]).mean(0)


def correlation_maps(
    teacher: Tensor, students: Sequence[tuple[str, str, Sequence[Tensor]]], classes: Sequence[str]
) -> dict[str, Any]:
    """What the page shows, as `reporting.facts.Correlations` reads it; all are means over seeds.

    Args:
        teacher: (C, C).
        students: name, role, and the (C, C) correlations of each seed.

    Returns:
        `maps`, the correlations of the teacher and of the first student of each role; `differences`, |student -
        teacher| for every student, so that a map's mean off the diagonal is the table's number; `pairs`, the
        teacher's closest two classes, chosen by the teacher alone, and what the mapped students make of them.
    """
    first = {role: (name, torch.stack(list(seeds)).mean(0)) for name, role, seeds in reversed(students)}
    shown = [("teacher", "teacher", teacher)]
    shown += [(name, role, first[role][1]) for name, role, _ in students if first[role][0] == name]
    gaps = [
        (name, role, torch.stack([(one - teacher).abs() for one in seeds]).mean(0)) for name, role, seeds in students
    ]
    rows, columns = torch.triu_indices(len(teacher), len(teacher), offset=1)
    closest = teacher[rows, columns].argsort(descending=True, stable=True)[:_PAIRS]
    pairs = [
        {"classes": [classes[i], classes[j]], "values": [round(matrix[i, j].item(), 4) for *_, matrix in shown]}
        for i, j in zip(rows[closest].tolist(), columns[closest].tolist(), strict=True)
    ]
    return {
        "classes": list(classes),
        "maps": [_map(*one) for one in shown],
        "differences": [_map(*one) for one in gaps],
        "pairs": pairs,
    }


def _map(name: str, role: str, matrix: Tensor) -> dict[str, Any]:
    if len(matrix) > _SIDE:
        matrix = F.adaptive_avg_pool2d(matrix[None], _SIDE)[0]
    return {"name": name, "role": role, "matrix": [[round(x, 3) for x in row] for row in matrix.tolist()]}
