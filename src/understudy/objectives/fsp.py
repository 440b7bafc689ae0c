"""Flow of the solution procedure: how one layer's channels go with the next one's (FSP, Yim et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from understudy.objectives.numerics import full_precision
from understudy.objectives.taps import TapPair, Tapped, regressor, same_size, shapes_of


@full_precision
def fsp_loss(student: Tensor, student_next: Tensor, teacher: Tensor, teacher_next: Tensor) -> Tensor:
    """`mean (G_S - G_T)^2` over the batch and the matrices' entries: equation (2), whose sum became a mean.

    `G[i, j] = sum_hw F1[i, h, w] F2[j, h, w] / (H W)` (equation 1), with F1 and F2 two layers of a network.

    Args:
        student, teacher: F1, (B, C1, H, W), each in its own size.
        student_next, teacher_next: F2, (B, C2, H, W); the larger of F1 and F2 is averaged to the size of the smaller
            (the paper takes the maximum).
    """
    ours, theirs = flow(student, student_next), flow(teacher, teacher_next)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"the student's FSP matrices are {tuple(ours.shape[1:])} and the teacher's {tuple(theirs.shape[1:])}: "
            "bring the student's layers to the teacher's channels first, as FlowOfSolution does"
        )
    return (ours - theirs).square().mean()


def flow(first: Tensor, second: Tensor) -> Tensor:
    """(B, C1, H, W), (B, C2, H, W) -> (B, C1, C2), the FSP matrix of each sample."""
    first, second = (x.flatten(2) for x in same_size(first, second))
    return first @ second.mT / first.shape[2]


class FlowOfSolution(Tapped):
    """See `fsp_loss`: the sum over consecutive pairs of taps, at least two.

    The paper needs as many channels in the student as in the teacher. Where they differ, a 1x1 convolution and
    BatchNorm, trained along, bring the student's to the teacher's; where they agree, nothing is added and it is the
    paper's loss. The paper initialises the student with it and then trains on the labels; here it is a term throughout.
    """

    ranks = (3,)
    summary = "how one layer's channels go with the next one's (FSP, Yim et al. 2017)"
    weight = 50.0

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__(pairs)
        if len(pairs) < 2:
            raise ValueError(
                f"FlowOfSolution compares consecutive layers and has one pair, {pairs[0].student} ~ "
                f"{pairs[0].teacher}: tap at least two layers in both networks"
            )
        shapes = [shapes_of(pair) for pair in pairs]
        self.projectors = nn.ModuleList(
            nn.Identity() if student[0] == teacher[0] else regressor(pair)
            for pair, (student, teacher) in zip(pairs, shapes, strict=True)
        )

    def total(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        projected = [(project(s), t) for project, (s, t) in zip(self.projectors, layers, strict=True)]
        losses = [fsp_loss(s, s_next, t, t_next) for (s, t), (s_next, t_next) in pairwise(projected)]
        return torch.stack(losses).sum()
