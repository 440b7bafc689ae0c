"""Activation boundaries: on which side of zero each neuron is (AB, Heo et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.numerics import full_precision
from understudy.objectives.taps import TapPair, Tapped, regressor, same_size


@full_precision
def activation_boundary_loss(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """`||rho(T) * relu(m - r(S)) + (1 - rho(T)) * relu(m + r(S))||^2`, rho(x) = 1 where x > 0, else 0 (section 3).

    The margin makes the count of wrong sides differentiable: a neuron on its right side by m costs nothing.

    Args:
        student: `r(S)`, the student's layer after its connector, (B, ...).
        teacher: T, of the same shape, before or after a ReLU, which leaves rho as it is.
        margin: m > 0.

    Returns:
        A scalar: the sum over the neurons, the mean over the batch.
    """
    side = torch.where(teacher > 0, 1.0, -1.0)
    return F.relu(margin - side * student).square().flatten(1).sum(1).mean()


class ActivationBoundaries(Tapped):
    """See `activation_boundary_loss`: the sum over all pairs, from the output `scale * (1, 1/2, 1/4, ...)` of each.

    The connector r is a 1x1 convolution (or a Linear) and BatchNorm, so that a student tapped after its ReLU can be on
    either side. In the paper this loss alone initialises the student, and cross-entropy follows; a term of the loss
    throughout, it is a constraint to the end: set the weight to 0 after some epochs to have the paper's two stages.

    Args:
        margin: m > 0.
        scale: of the sum over neurons; 3/1000 goes with the weight 1 of Tian et al. (2020).
    """

    summary = "on which side of zero each neuron is (activation boundaries, Heo et al. 2019)"
    weight = 1.0

    def __init__(self, pairs: Sequence[TapPair], margin: float = 1.0, scale: float = 3e-3) -> None:
        super().__init__(pairs)
        if not (margin > 0 and scale > 0):
            raise ValueError(f"margin and scale must be above 0; they are {margin} and {scale}")
        self.margin, self.scale = margin, scale
        self.connectors = nn.ModuleList(regressor(pair) for pair in pairs)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_size(student, teacher)
        loss = activation_boundary_loss(self.connectors[index](student), teacher, self.margin)
        return self.scale * 0.5 ** (len(self.pairs) - 1 - index) * loss
