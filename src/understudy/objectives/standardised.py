"""Logit standardisation: any objective of logits, on their z-scores (Sun et al. 2024)."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from understudy.objectives.base import Objective, Setting, teacher_of
from understudy.objectives.soft_targets import SoftTargets
from understudy.signals import Batch, Signals


def standardised_logits(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """`(z - mean(z)) / (std(z) + eps)` of each row (Sun et al. 2024, algorithm 1), in float32.

    The deviation is the sample's (over C - 1), as in the released code. A row of equal logits becomes zeros.

    Args:
        logits: (..., C), C at least 2.
    """
    z = logits.float()
    z = z - z.mean(-1, keepdim=True)
    # a norm, not torch.std: the gradient of std is NaN where all logits are equal
    std = torch.linalg.vector_norm(z, dim=-1, keepdim=True) / math.sqrt(z.shape[-1] - 1)
    return z / (std + eps)


def standardised(signals: Signals) -> Signals:
    """The same signals with standardised logits, the members' of an ensemble too."""
    return Signals(
        standardised_logits(signals.logits),
        signals.embedding,
        signals.features,
        tuple(standardised(member) for member in signals.members),
    )


class LogitStandardised(Objective):
    """Another objective, on the z-scores of both sides' logits: `inner(Z(z), Z(v))`; see `standardised_logits`.

    The student then matches the relations of the teacher's logits and not their size, which is its own. The
    inner objective's temperature is the paper's base temperature; its default is soft targets at 2, at the
    paper's weight 9 (beside hard targets of weight 0.1 there, of weight 1 where the inner objective is DKD).

    Args:
        inner: any objective that reads logits.
    """

    summary = "another objective of logits (option inner, soft by default) on their z-scores (Sun et al. 2024)"
    weight = 9.0

    def __init__(self, inner: Objective | None = None) -> None:
        super().__init__()
        self.inner = SoftTargets(temperature=2.0) if inner is None else inner
        self.needs, self.rowwise, self.mixable = self.inner.needs, self.inner.rowwise, self.inner.mixable
        if "logits" not in self.needs.student:
            raise ValueError(f"{type(self.inner).__name__} reads no logits that could be standardised")

    @classmethod
    def suited(cls, setting: Setting, inner: str | None = None, **options: Any) -> Self:
        """`inner` is a name in `OBJECTIVES`; the other options, such as `temperature` (2 by default), are its own."""
        from understudy.objectives import OBJECTIVES  # which lists this one too

        if inner is None:
            return cls(SoftTargets(**{"temperature": 2.0, **options}))
        if inner not in OBJECTIVES:
            raise ValueError(f"inner={inner!r} is no objective; there are {', '.join(sorted(OBJECTIVES))}")
        return cls(OBJECTIVES[inner].suited(setting, **options))

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        if self.inner.needs.teacher:
            teacher = teacher_of(self, teacher)
        return self.inner(standardised(student), None if teacher is None else standardised(teacher), batch)
