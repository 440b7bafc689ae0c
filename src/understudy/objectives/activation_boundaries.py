"""Activation boundaries: which neurons are active, regardless of how strongly (AB, Heo et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import FirstStage, check_number
from understudy.objectives.features import FeatureObjective, TapPair, make_regressor, match_size
from understudy.objectives.precision import full_precision


@full_precision
def activation_boundary_loss(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """`||rho(T) * relu(m - r(S)) + (1 - rho(T)) * relu(m + r(S))||^2`, rho(x) = 1 where x > 0, else 0 (section 3).

    A differentiable hinge in place of the number of neurons on the wrong side of zero: a neuron on the right side by
    at least the margin m adds nothing. `student` is r(S), the layer after its connector, and `teacher` is T, both
    (B, ...), before or after a ReLU. The sum over neurons is averaged over the batch.

    >>> student, teacher = torch.tensor([[2.0, -0.5, 0.5]]), torch.tensor([[3.0, 1.0, 0.0]])
    >>> activation_boundary_loss(student, teacher)  # 0 + (1 + 0.5)^2 + (1 + 0.5)^2
    tensor(4.5000)
    """
    sign = torch.where(teacher > 0, 1.0, -1.0)
    return F.relu(margin - sign * student).square().flatten(1).sum(1).mean()


class ActivationBoundaries(FeatureObjective):
    """`activation_boundary_loss` summed over all pairs, weighted `scale * (1, 1/2, 1/4, ...)` starting at the output.

    Layers are taken before their activations, as in the paper, where these are known. The connector r is a 1x1
    convolution (or Linear) and BatchNorm, so that a layer after its ReLU can take either sign too. The student is
    initialized with this loss alone and then trained on the labels, as in the paper and in Tian et al. (2020), whose
    weight 1 goes with a scale of 3/1000.
    """

    summary = "which neurons are active (activation boundaries, Heo et al. 2019)"
    weight = 1.0
    before_activation = frozenset({"student", "teacher"})

    def __init__(self, pairs: Sequence[TapPair], margin: float = 1.0, scale: float = 3e-3) -> None:
        super().__init__(pairs)
        check_number("margin", margin, above=True)
        check_number("scale", scale, above=True)
        self.margin, self.scale = margin, scale
        self.connectors = nn.ModuleList(make_regressor(pair) for pair in pairs)

    def first_stage(self) -> FirstStage:
        return FirstStage(self)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = match_size(student, teacher)
        loss = activation_boundary_loss(self.connectors[index](student), teacher, self.margin)
        return self.scale * 0.5 ** (len(self.pairs) - 1 - index) * loss
