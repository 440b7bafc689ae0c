"""ReviewKD: the student's layers, with the deeper ones fused in, match the teacher's (Chen et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import BuildContext, check_number
from understudy.objectives.batch_norm import ChannelNorm
from understudy.objectives.features import FeatureObjective, Shape, TapPair, named_pairs, shapes_of
from understudy.objectives.precision import full_precision

LEVELS = (4, 2, 1)


@full_precision
def hierarchical_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of the squared distance of maps (B, C, h, w) and of the maps pooled to 4x4, 2x2 and 1x1.

    The pooled ones, as far as they are smaller, have the weights 1/2, 1/4 and 1/8 next to 1 of the maps themselves.

    >>> hierarchical_loss(torch.zeros(1, 2, 8, 8), torch.full((1, 2, 8, 8), 2.0))
    tensor(4.)
    """
    loss, total, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for level in LEVELS:
        if level < student.shape[2]:
            weight /= 2
            own, other = (F.adaptive_avg_pool2d(x, (level, level)) for x in (student, teacher))
            loss, total = loss + weight * F.mse_loss(own, other), total + weight
    return loss / total


class Fusion(nn.Module):
    """Attention-based fusion (ABF) of a student's layer with what came from the deeper ones.

    `fuse(x, deeper)` of x (B, C, h, w) and the fused features (B, mid, h', w') of the layer after it, None for the
    last, gives the features to compare (B, out, *size) and those that are passed on to the layer before.
    """

    def __init__(self, channels: int, mid: int, out: int, size: Shape, last: bool) -> None:
        super().__init__()
        self.size = size
        self.enter = nn.Sequential(nn.Conv2d(channels, mid, 1, bias=False), ChannelNorm(mid))
        self.leave = nn.Sequential(nn.Conv2d(mid, out, 3, padding=1, bias=False), ChannelNorm(out))
        self.attention = None if last else nn.Sequential(nn.Conv2d(2 * mid, 2, 1), nn.Sigmoid())
        for layer in (self.enter[0], self.leave[0]):
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.enter(x)
        if self.attention is not None:
            assert deeper is not None
            deeper = F.interpolate(deeper, x.shape[2:], mode="nearest")
            shares = self.attention(torch.cat([x, deeper], 1))
            x = x * shares[:, :1] + deeper * shares[:, 1:]
        if tuple(x.shape[2:]) != tuple(self.size):
            x = F.interpolate(x, self.size, mode="nearest")
        return self.leave(x), x


class Review(FeatureObjective):
    """`hierarchical_loss` summed over all stages and the embedding, which are fused from the output to the input.

    Its weight rises over the first twelfth of the training, as in the authors' code (20 of 240 epochs). The weight 5 is
    theirs for ResNet-32x4 to 8x4; it depends on the pair. As with them, the teacher's layers are taken before their
    activations, where these are known.
    """

    ranks = (3,)
    before_activation = frozenset({"teacher"})
    summary = "each stage, with the deeper ones fused in, matches the teacher's (ReviewKD, Chen et al. 2021)"
    weight = 5.0
    warmup = 1 / 12

    def __init__(self, pairs: Sequence[TapPair], mid: int = 512) -> None:
        super().__init__(pairs)
        check_number("mid", mid, least=1, most=65_536, whole=True)
        shapes = [tuple((*shape, 1, 1)[:3] for shape in shapes_of(pair)) for pair in pairs]
        mid = min(mid, shapes[-1][0][0])
        self.fusions = nn.ModuleList(
            Fusion(student[0], mid, teacher[0], teacher[1:], last=index == len(shapes) - 1)
            for index, (student, teacher) in enumerate(shapes)
        )

    @classmethod
    def default_pairs(cls, context: BuildContext) -> tuple[TapPair, ...]:
        return (*super().default_pairs(context), *named_pairs(context, [("embedding", "embedding")]))

    def _check(self, pair: TapPair) -> None:
        if pair.student != "embedding":
            super()._check(pair)

    def total(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        losses, deeper = [], None
        for fusion, (student, teacher) in zip(reversed(self.fusions), reversed(layers), strict=True):
            student, teacher = (x[:, :, None, None] if x.dim() == 2 else x for x in (student, teacher))
            compared, deeper = fusion(student, deeper)
            losses.append(hierarchical_loss(compared, teacher))
        return torch.stack(losses).sum()
