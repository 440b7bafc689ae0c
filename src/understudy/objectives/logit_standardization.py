"""Logit standardization: any logit-based objective on z-scores of the logits (Sun et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from understudy.objectives.base import LOGITS, BuildContext, Needs, Objective, require_teacher
from understudy.objectives.kd import KD
from understudy.signals import Batch, Signals


def standardize_logits(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """`(z - mean(z)) / (std(z) + eps)` of each row (Sun et al. 2024, algorithm 1), (..., C) with C >= 2, in float32.

    `std` is the unbiased estimate (over C - 1), as in the released code. A row of equal logits becomes zeros.

    >>> standardize_logits(torch.tensor([[10.0, 20.0, 30.0], [5.0, 5.0, 5.0]])).round(decimals=3)
    tensor([[-1.,  0.,  1.],
            [ 0.,  0.,  0.]])
    """
    z = logits.float()
    z = z - z.mean(-1, keepdim=True)
    # a norm, not torch.std: the gradient of std is NaN where all logits are equal
    std = torch.linalg.vector_norm(z, dim=-1, keepdim=True) / math.sqrt(z.shape[-1] - 1)
    return z / (std + eps)


def standardize_signals(signals: Signals) -> Signals:
    """The same signals with standardized logits, including those of an ensemble's members."""
    members = tuple(standardize_signals(member) for member in signals.members)
    return Signals(standardize_logits(signals.logits), signals.embedding, signals.features, members)


def standardized_teacher(teacher: Signals) -> Signals:
    """`standardize_signals` of a teacher, once for all students of a step."""
    return teacher.once("standardized", lambda: standardize_signals(teacher))


class LogitStandardization(Objective):
    """Another objective that reads logits, on the z-scores of both networks' logits: `inner(Z(z), Z(v))`.

    The student then matches the relations between the teacher's logits but not their scale. The inner objective's
    temperature is the paper's base temperature. The default is the authors': KD at temperature 2 with weight 9, next to
    cross-entropy of weight 0.1 (of weight 1 with DKD as the inner objective).
    """

    needs = Needs(student=LOGITS, teacher=LOGITS)
    summary = "another objective of logits (option inner, kd by default) on their z-scores (Sun et al. 2024)"
    weight = 9.0

    def __init__(self, inner: Objective | None = None) -> None:
        super().__init__()
        self.inner = KD(temperature=2.0) if inner is None else inner
        self._combine([self.inner])
        if "logits" not in self.needs.student:
            raise ValueError(f"{type(self.inner).__name__} reads no logits to standardize")

    @classmethod
    def label_weight(cls, options: Mapping[str, Any]) -> float:
        from understudy.objectives import OBJECTIVES  # as below

        inner = OBJECTIVES.get(options.get("inner") or "kd")
        return 1.0 if inner is None else inner.label_weight({})

    @classmethod
    def from_shapes(cls, context: BuildContext, inner: str | None = None, **options: Any) -> Self:
        """Build the inner objective with these options, by its name in `OBJECTIVES`; None for KD at temperature 2."""
        from understudy.objectives import OBJECTIVES  # a cyclic import at the top, as it lists this class too

        if inner is None:
            return cls(KD(**{"temperature": 2.0, **options}))
        if inner not in OBJECTIVES:
            raise ValueError(f"inner={inner!r} is not an objective; choose from {', '.join(sorted(OBJECTIVES))}")
        return cls(OBJECTIVES[inner].from_shapes(context, **options))

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        if self.inner.needs.teacher:
            teacher = require_teacher(self, teacher)
        standardized = None if teacher is None else standardized_teacher(teacher)
        return self.inner(standardize_signals(student), standardized, batch)
