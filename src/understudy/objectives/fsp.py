"""Flow of solution procedure: Gram matrices between consecutive layers (FSP, Yim et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from understudy.objectives.base import BuildContext, FirstStage
from understudy.objectives.features import FeatureObjective, TapPair, make_regressor, match_size, named_pairs, shapes_of
from understudy.objectives.precision import full_precision


@full_precision
def fsp_loss(student: Tensor, student_next: Tensor, teacher: Tensor, teacher_next: Tensor) -> Tensor:
    """`mean (G_S - G_T)^2` over the batch and the entries: equation (2), with a mean in place of the sum.

    `G[i, j] = sum_hw F1[i, h, w] F2[j, h, w] / (H W)` (equation 1), with F1 (B, C1, H, W) and F2 (B, C2, H', W') two
    layers of a network; the larger is average-pooled to the size of the smaller (max-pooled in the paper). Student and
    teacher must have the same C1 and C2.

    >>> first, second = torch.ones(1, 2, 8, 8), torch.ones(1, 3, 4, 4)
    >>> fsp_loss(first, second, 2 * first, second)  # G_S = 1 and G_T = 2 in all entries
    tensor(1.)
    """
    gram_s, gram_t = fsp_matrix(student, student_next), fsp_matrix(teacher, teacher_next)
    if gram_s.shape != gram_t.shape:
        raise ValueError(
            f"the student's FSP matrices are {tuple(gram_s.shape[1:])} and the teacher's {tuple(gram_t.shape[1:])}: "
            "project the student's layers to the teacher's channels first, as FlowOfSolution does"
        )
    return (gram_s - gram_t).square().mean()


def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    """(B, C1, H, W), (B, C2, H, W) -> (B, C1, C2), the FSP matrix of each sample."""
    first, second = (x.flatten(2) for x in match_size(first, second))
    return first @ second.mT / first.shape[2]


class FlowOfSolution(FeatureObjective):
    """`fsp_loss` summed over consecutive pairs of taps, at least two: by default the stems and the ends of the stages.

    So there is a matrix for each stage, as in Tian et al. (2020), where both networks declare a stem. The paper needs
    as many channels in the student as in the teacher. Where they differ, a trained 1x1 convolution and BatchNorm
    project the student's to the teacher's; where they agree, it is the paper's loss. The student is initialized with
    this loss alone and then trained on the labels, as in the paper; in a single stage its weight is 50.
    """

    ranks = (3,)
    summary = "Gram matrices between consecutive layers (FSP, Yim et al. 2017)"
    weight = 50.0

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__(pairs)
        if len(pairs) < 2:
            raise ValueError(
                f"FlowOfSolution compares consecutive layers but has one pair, {pairs[0].student} ~ "
                f"{pairs[0].teacher}: tap at least two layers in both networks"
            )
        self.projectors = nn.ModuleList(_projector(pair) for pair in pairs)

    @classmethod
    def default_pairs(cls, context: BuildContext) -> tuple[TapPair, ...]:
        stem = named_pairs(context, list(zip(context.student.stem, context.teacher.stem, strict=False)))
        return (*stem, *super().default_pairs(context))

    def first_stage(self) -> FirstStage:
        return FirstStage(self)

    def total(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        projected = [(project(s), t) for project, (s, t) in zip(self.projectors, layers, strict=True)]
        losses = [fsp_loss(s, s_next, t, t_next) for (s, t), (s_next, t_next) in pairwise(projected)]
        return torch.stack(losses).sum()


def _projector(pair: TapPair) -> nn.Module:
    student, teacher = shapes_of(pair)
    return nn.Identity() if student[0] == teacher[0] else make_regressor(pair)
