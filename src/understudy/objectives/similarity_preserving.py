"""Similarity-preserving distillation: which samples of a batch activate a layer similarly (SP, Tung and Mori 2019)."""

from __future__ import annotations

from torch import Tensor

from understudy.objectives.base import BuildContext
from understudy.objectives.features import FeatureObjective, TapPair
from understudy.objectives.precision import full_precision, unit


@full_precision
def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`1 / B^2 * ||G_T - G_S||_F^2`, G the Gram matrix `Q Q'` with rows of norm 1, Q (B, CHW) (section 3).

    Inputs are (B, ...); their shapes may differ, since both Gram matrices are (B, B).

    >>> import torch
    >>> round(similarity_loss(torch.eye(2), torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])).item(), 3)
    0.293
    """
    return (similarities(student) - similarities(teacher)).square().mean()


def similarities(x: Tensor) -> Tensor:
    """(B, ...) -> (B, B): the Gram matrix of the samples, with rows of norm 1."""
    x = x.flatten(1)
    return unit(x @ x.mT)


class SimilarityPreserving(FeatureObjective):
    """`similarity_loss` at the last taps by default. Compares the samples of a batch: depends on the batch size."""

    ranks = ()
    per_sample = False
    summary = "which samples activate a layer similarly (similarity-preserving, Tung and Mori 2019)"
    weight = 3000.0

    @classmethod
    def default_pairs(cls, context: BuildContext) -> tuple[TapPair, ...]:
        return super().default_pairs(context)[-1:]

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_loss(student, teacher)
