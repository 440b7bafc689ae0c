"""Factor transfer: a translator of the student's layer meets a paraphrase of the teacher's (FT, Kim et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import Setting
from understudy.objectives.numerics import full_precision, unit
from understudy.objectives.taps import ChannelNorm, TapPair, Tapped, same_size, shapes_of


@full_precision
def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean |F_T / ||F_T||_2 - F_S / ||F_S||_2|`, each sample's factor flattened (section 3; p = 1).

    The mean over the elements, instead of the paper's sum, does not grow with the layer.

    Args:
        student, teacher: (B, K, H, W), the factors.
    """
    return F.l1_loss(unit(student.flatten(1)), unit(teacher.flatten(1)))


class Paraphraser(nn.Module):
    """Convolutional autoencoder of a teacher's layer, (B, C, H, W); its code is the factor, (B, rate C, H, W).

    Args:
        channels: C.
        rate: the factor's channels per channel of the layer, k in the paper.
    """

    def __init__(self, channels: int, rate: float = 0.5) -> None:
        super().__init__()
        if not rate > 0:
            raise ValueError(f"rate must be above 0; it is {rate}")
        self.channels, self.factors = channels, max(1, int(channels * rate))
        self.encoder = _convolutions(channels, channels, self.factors, self.factors)
        self.decoder = _convolutions(self.factors, self.factors, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    @full_precision
    def reconstruction_loss(self, x: Tensor) -> Tensor:
        """`mean (x - P(x))^2`, with P the encoder and decoder: what the paper trains it by, before the student."""
        return F.mse_loss(self.decoder(self.encoder(x)), x)


class FactorTransfer(Tapped):
    """See `factor_loss`. The last feature maps by default; the translator has three 3x3 convolutions with BatchNorm.

    The paper trains the paraphraser first, without labels, and then the student. Do that by minimising
    `reconstruction_loss` of a `Paraphraser` over the teacher's layer and giving it here: it is frozen. Left out, it is
    trained beside the student, in one stage: `reconstruction * reconstruction_loss` is added, and the factor loss gives
    it no gradient, or it would paraphrase everything alike. The target then moves while the autoencoder learns.

    The default weight, 200, is that of Tian et al. (2020), whose loss compares the factors' attention maps instead:
    these have fewer entries and the same length, 1, so that their mean difference is larger.

    Args:
        paraphrasers: trained ones, one for each pair; made here where None.
        rate: channels of the factor per channel of the teacher's layer.
        reconstruction: weight of the autoencoders' loss inside this one; 1/200 makes it 1 under the default weight.
    """

    ranks = (3,)
    summary = "a translation of a layer meets the teacher's paraphrase (factor transfer, Kim et al. 2018)"
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
        self.frozen = paraphrasers is not None
        self.reconstruction = reconstruction
        made = paraphrasers or [Paraphraser(teacher[0], rate) for _, teacher in shapes]
        wanted, found = [teacher[0] for _, teacher in shapes], [paraphraser.channels for paraphraser in made]
        if wanted != found:
            raise ValueError(
                f"the teacher's layers have {wanted} channels and the paraphrasers {found}: train one for each"
            )
        self.paraphrasers = nn.ModuleList(made).requires_grad_(not self.frozen)
        self.translators = nn.ModuleList(
            _convolutions(student[0], student[0], paraphraser.factors, paraphraser.factors, norm=True)
            for (student, _), paraphraser in zip(shapes, made, strict=True)
        )

    @classmethod
    def choose(cls, setting: Setting) -> tuple[TapPair, ...]:
        return super().choose(setting)[-1:]

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        paraphraser = self.paraphrasers[index]
        assert isinstance(paraphraser, Paraphraser)
        factor = paraphraser(teacher)
        loss = factor_loss(*same_size(self.translators[index](student), factor.detach()))
        return loss if self.frozen else loss + self.reconstruction * F.mse_loss(paraphraser.decoder(factor), teacher)


def _convolutions(*channels: int, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm)]
        layers += [ChannelNorm(outputs)] if norm else []
        layers += [nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
