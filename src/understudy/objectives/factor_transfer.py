"""Factor transfer: a translation of the student's layer matches a paraphrase of the teacher's (FT, Kim et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.attention_transfer import attention_map
from understudy.objectives.base import NOTHING, BuildContext, FirstStage, Needs, check_number, require_teacher
from understudy.objectives.batch_norm import ChannelNorm
from understudy.objectives.features import FeatureObjective, TapPair, match_size, shapes_of, tap_of
from understudy.objectives.precision import full_precision
from understudy.signals import Batch, Signals


@full_precision
def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean |Q(F_T) - Q(F_S)|`, Q the attention map `sum_c F_c^2` of factors (B, K, H, W), normalized per sample.

    This is the loss of Tian et al. (2020), whose weight of 200 goes with it. The paper compares the normalized factors
    themselves (section 3), which have K times as many entries at the same norm, so that their mean is smaller. The
    larger maps are average-pooled to the size of the smaller.

    >>> import torch
    >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]]]])
    >>> factor_loss(student, teacher)
    tensor(1.)
    """
    student, teacher = match_size(student, teacher)
    return F.l1_loss(attention_map(student), attention_map(teacher))


class Paraphraser(nn.Module):
    """Convolutional autoencoder of a teacher's layer, (B, C, H, W); its code is the factor, (B, rate * C, H, W).

    >>> import torch
    >>> Paraphraser(channels=8, rate=0.5)(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 4, 4, 4])
    """

    def __init__(self, channels: int, rate: float = 0.5) -> None:
        super().__init__()
        check_number("rate", rate, above=True, most=100)
        self.channels, self.factors = channels, max(1, int(channels * rate))
        self.encoder = _layers(nn.Conv2d, channels, channels, self.factors, self.factors)
        self.decoder = _layers(nn.ConvTranspose2d, self.factors, self.factors, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    @full_precision
    def reconstruction_loss(self, x: Tensor) -> Tensor:
        """`mean (x - P(x))^2`, P the autoencoder: the paper trains it on this loss, before the student."""
        return F.mse_loss(self.decoder(self.encoder(x)), x)


class Reconstruction(FeatureObjective):
    """The `reconstruction_loss` of paraphrasers, summed over the teacher's layers; it reads nothing of a student."""

    ranks = (3,)
    summary = "a paraphrase of the teacher's layer, from which it can be restored (Kim et al. 2018)"

    def __init__(self, pairs: Sequence[TapPair], paraphrasers: nn.ModuleList) -> None:
        super().__init__(pairs)
        self.paraphrasers = paraphrasers
        self.needs = Needs(NOTHING, self.needs.teacher)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        losses = []
        for pair, paraphraser in zip(self.pairs, self.paraphrasers, strict=True):
            assert isinstance(paraphraser, Paraphraser)
            layer = tap_of(require_teacher(self, teacher), pair.teacher, "teacher")
            losses.append(paraphraser.reconstruction_loss(layer))
        return torch.stack(losses).sum()


class FactorTransfer(FeatureObjective):
    """`factor_loss` at the last feature maps by default. The translator is three 3x3 convolutions with BatchNorm.

    The paper trains the paraphraser first, without labels, and then the student: its `first_stage` is `Reconstruction`
    alone. In a loop of your own, minimize the `reconstruction_loss` of a `Paraphraser` over the teacher's layer and
    pass it as `paraphrasers`, one per pair: it is frozen. Where its weights can be trained, they are, together with
    the student: `reconstruction * reconstruction_loss` is added, and the factor loss gives it no gradient, as it would
    collapse to a constant. The target then moves while it learns.

    The default weight, 200, is that of Tian et al. (2020), with whose loss it goes. A reconstruction of 1/200 weights
    that loss by 1 under the default weight.
    """

    ranks = (3,)
    summary = "a translation of a layer matches a paraphrase of the teacher's (factor transfer, Kim et al. 2018)"
    weight = 200.0

    def __init__(
        self,
        pairs: Sequence[TapPair],
        paraphrasers: Sequence[Paraphraser] | None = None,
        rate: float = 0.5,
        reconstruction: float = 1 / 200,
    ) -> None:
        super().__init__(pairs)
        shapes = [shapes_of(pair) for pair in pairs]
        check_number("reconstruction", reconstruction)
        self.reconstruction = reconstruction
        frozen = paraphrasers is not None
        paraphrasers = paraphrasers or [Paraphraser(teacher[0], rate) for _, teacher in shapes]
        expected, given = [teacher[0] for _, teacher in shapes], [p.channels for p in paraphrasers]
        if expected != given:
            raise ValueError(
                f"the teacher's layers have {expected} channels but the paraphrasers {given}: train one for each layer"
            )
        self.paraphrasers = nn.ModuleList(paraphrasers).requires_grad_(not frozen)
        self.translators = nn.ModuleList(
            _layers(nn.Conv2d, student[0], student[0], paraphraser.factors, paraphraser.factors, norm=True)
            for (student, _), paraphraser in zip(shapes, paraphrasers, strict=True)
        )

    @classmethod
    def default_pairs(cls, context: BuildContext) -> tuple[TapPair, ...]:
        return super().default_pairs(context)[-1:]

    @property
    def frozen(self) -> bool:
        """Whether the paraphrasers are trained already."""
        return not any(weight.requires_grad for weight in self.paraphrasers.parameters())

    def first_stage(self) -> FirstStage | None:
        if self.frozen:
            return None
        return FirstStage(Reconstruction(self.pairs, self.paraphrasers), self, rate=0.2)

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        paraphraser = self.paraphrasers[index]
        assert isinstance(paraphraser, Paraphraser)
        factor = paraphraser(teacher)
        loss = factor_loss(*match_size(self.translators[index](student), factor.detach()))
        return loss if self.frozen else loss + self.reconstruction * F.mse_loss(paraphraser.decoder(factor), teacher)


def _layers(kind: type[nn.Conv2d | nn.ConvTranspose2d], *channels: int, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [kind(inputs, outputs, 3, padding=1, bias=not norm)]
        layers += [ChannelNorm(outputs)] if norm else []
        layers += [nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
