"""Which view of each sample an epoch shows, and whom it is mixed with: pure functions of (seed, view, id)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from understudy.data.augment import NO_AUGMENTATION, Augmentation
from understudy.randomness import beta, mix, permutation

_VIEW, _MIX = 2, 3  # random streams


@dataclass(frozen=True)
class Views:
    """What the samples look like in each epoch.

    With MixUp (Zhang et al. 2018) the samples of a view are mixed in pairs, each with a weight of its own from
    Beta(mixup, mixup). Weights and pairs depend neither on batches nor on the order of an epoch.

    Attributes:
        seed: of all views; another seed has other views.
        count: epochs show views 0 to count - 1 in turn, so that a teacher's answers to them can be kept; where None,
            every epoch has a view of its own.
        mixup: alpha of MixUp; 0 for none.

    >>> views = Views(seed=1, count=4)
    >>> ids = torch.arange(3)
    >>> torch.equal(views.seeds(5, ids), views.seeds(1, ids)), torch.equal(views.seeds(2, ids), views.seeds(1, ids))
    (True, False)
    """

    augmentation: Augmentation = NO_AUGMENTATION
    seed: int = 0
    count: int | None = None
    mixup: float = 0.0

    @overload
    def index(self, epochs: int) -> int: ...
    @overload
    def index(self, epochs: Tensor) -> Tensor: ...
    @overload
    def index(self, epochs: int | Tensor) -> int | Tensor: ...
    def index(self, epochs: int | Tensor) -> int | Tensor:
        """The view that these epochs show."""
        return epochs if self.count is None else epochs % self.count

    def seeds(self, epochs: int | Tensor, ids: Tensor) -> Tensor:
        """(B,) int64 seeds of the views of samples (B,) in one epoch, or in (B,) epochs."""
        return mix(self.seed, _VIEW, self.index(epochs), ids)

    def weights(self, seeds: Tensor) -> Tensor:
        """(B,) float32 weights of the samples themselves in their mixed views, from the seeds of these."""
        return beta(self.mixup, seeds, _MIX)

    def pairs(self, epoch: int, samples: int) -> Tensor:
        """(samples,) int64 rows, of which the first and second, the third and fourth, ... are mixed with each other."""
        return permutation(samples, self.seed, _MIX, self.index(epoch))

    def partners(self, epoch: int, samples: int) -> Tensor:
        """(samples,) int64 rows of the partner of each row; the last of an odd number has that of another."""
        pairs = self.pairs(epoch, samples)
        even = samples - samples % 2
        partners = torch.empty_like(pairs)
        partners[pairs[:even]] = pairs[:even].view(-1, 2).flip(1).flatten()
        partners[pairs[even:]] = pairs[:1]
        return partners
