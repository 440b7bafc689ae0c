"""Similarity-preserving distillation: which samples of a batch activate a layer alike (Tung and Mori 2019)."""

from __future__ import annotations

from torch import Tensor

from understudy.objectives.base import Setting
from understudy.objectives.numerics import full_precision, unit
from understudy.objectives.taps import TapPair, Tapped


@full_precision
def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`1 / B^2 * ||G_T - G_S||_F^2`, each row of `G` the row of `Q Q'` over its norm; Q (B, CHW) (section 3).

    Args:
        student: (B, ...).
        teacher: (B, ...); its shape beyond the batch may differ, since both Gram matrices are (B, B).
    """
    return (similarities(student) - similarities(teacher)).square().mean()


def similarities(x: Tensor) -> Tensor:
    """(B, ...) -> (B, B): the Gram matrix of the samples, each row of length 1."""
    x = x.flatten(1)
    return unit(x @ x.mT)


class SimilarityPreserving(Tapped):
    """See `similarity_loss`. The last taps by default; compares samples, so it depends on the batch's size."""

    ranks = ()
    rowwise = False
    summary = "which samples are alike in a layer (similarity-preserving, Tung and Mori 2019)"
    weight = 3000.0

    @classmethod
    def choose(cls, setting: Setting) -> tuple[TapPair, ...]:
        return super().choose(setting)[-1:]

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_loss(student, teacher)
