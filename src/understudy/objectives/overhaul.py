"""OFD: the responses that matter of a teacher's layers before their activations (Heo et al. 2019, ICCV)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from understudy.objectives.features import FeatureObjective, TapPair, make_regressor, match_size, shapes_of, tap_of
from understudy.objectives.precision import full_precision
from understudy.signals import Signals


@full_precision
def overhaul_loss(student: Tensor, teacher: Tensor, margin: Tensor | float) -> Tensor:
    """`d_p(max(T, m), r(S))`: partial squared distance from the teacher's layer after its margin ReLU (equations 2, 4).

    `d_p(T, S)` sums `(T - S)^2` over the neurons but those with `S <= T <= 0`: where the teacher is not active, a
    student that is below it is as good. `student` is r(S), the layer after its connector, and `teacher` is T, both
    (B, C, ...) and before their activations. The sum over neurons is averaged over the batch.

    Args:
        margin: m, negative: (C,), or one for all; see `negative_means`.

    >>> student, teacher = torch.tensor([[1.0, -2.0, -0.5]]), torch.tensor([[3.0, -0.2, -5.0]])
    >>> overhaul_loss(student, teacher, -1.0)  # (1 - 3)^2 + 0 + (-0.5 + 1)^2
    tensor(4.2500)
    """
    if isinstance(margin, Tensor) and margin.dim():
        margin = margin.view(-1, *[1] * (teacher.dim() - 2))
    target = teacher.clamp_min(margin)
    counted = (student > target) | (target > 0)
    return torch.where(counted, (target - student).square(), 0.0).flatten(1).sum(1).mean()


def negative_means(x: Tensor) -> Tensor:
    """`E[x | x < 0]` of each channel of (N, C, ...), (C,): the margin (equation 3); 0 where nothing is negative.

    >>> negative_means(torch.tensor([[-1.0, 2.0], [-3.0, 4.0], [5.0, 6.0]]))
    tensor([-2.,  0.])
    """
    x = x.float().movedim(1, 0).flatten(1)
    return x.clamp_max(0).sum(1) / (x < 0).sum(1).clamp_min(1)


class Overhaul(FeatureObjective):
    """`overhaul_loss` summed over all pairs of feature maps, weighted (1, 1/2, 1/4, ...) starting at the output.

    Layers are taken before their activations, where these are known. The connector r is a 1x1 convolution and
    BatchNorm. `fit` measures the margins on the teacher's answers; before that they are 0, a plain ReLU.
    """

    ranks = (3,)
    before_activation = frozenset({"student", "teacher"})
    fitted = True
    summary = "a teacher's layers after a margin ReLU, by partial distance (OFD, Heo et al. 2019)"
    weight = 1e-3

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__(pairs)
        self.connectors = nn.ModuleList(make_regressor(pair) for pair in pairs)
        for index, pair in enumerate(pairs):
            self.register_buffer(f"margin{index}", torch.zeros(shapes_of(pair)[1][0]))

    def fit(self, teacher: Signals) -> None:
        for index, pair in enumerate(self.pairs):
            self.get_buffer(f"margin{index}").copy_(negative_means(tap_of(teacher, pair.teacher, "teacher")))

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = match_size(student, teacher)
        loss = overhaul_loss(self.connectors[index](student), teacher, self.get_buffer(f"margin{index}"))
        return 0.5 ** (len(self.pairs) - 1 - index) * loss
