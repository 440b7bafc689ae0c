"""A specialist's training data: labels with a dustbin class, and epochs drawn half from its group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.randomness import mix, name_key, permutation

_ORDER, _REST = name_key("half and half"), name_key("the rest")


def dustbin_name(classes: Sequence[str]) -> str:
    """A name for the dustbin class that is not already taken.

    Example:
        >>> dustbin_name(["cat", "dog"]), dustbin_name(["cat", "dustbin"])
        ('dustbin', 'dustbin_')
    """
    name = "dustbin"
    while name in classes:
        name += "_"
    return name


def with_dustbin(source: Source, group: Sequence[str]) -> Source:
    """Relabel samples: a group's classes become 0, 1, ... in the order given, and all others the last class.

    Unlabeled samples (-1) stay unlabeled.

    Example:
        >>> from understudy.data import ArraySource
        >>> labels, inputs = torch.tensor([0, 1, 2, -1]), torch.zeros(4, 2)
        >>> source = ArraySource("pets", ("cat", "dog", "fox"), torch.arange(4), labels, (2,), inputs=inputs)
        >>> with_dustbin(source, ["fox"]).targets.tolist()
        [1, 1, 0, -1]
    """
    assert source.targets is not None
    place = torch.full((len(source.classes),), len(group))
    place[[source.classes.index(name) for name in group]] = torch.arange(len(group))
    targets = torch.where(source.targets < 0, source.targets, place[source.targets])
    return replace(source, classes=(*group, dustbin_name(source.classes)), targets=targets)


@dataclass(frozen=True)
class SpecialistSampler:
    """Row indices of each epoch: every sample of the group once and as many others, shuffled together.

    The others are consumed from one random permutation after another, so that all are used equally often over the
    epochs. Epochs are a pure function of the seed and the epoch number.
    """

    special: Tensor  # row indices (int64) of the samples in the group, and of those outside it; neither is empty
    others: Tensor
    seed: int

    @classmethod
    def of(cls, source: Source, group: Sequence[str], seed: int) -> SpecialistSampler:
        """Split a source's labeled samples into those of a group of classes and all others."""
        assert source.targets is not None
        chosen = torch.tensor([source.classes.index(name) for name in group])
        special = torch.isin(source.targets, chosen)
        others = ~special & (source.targets >= 0)
        for name, rows in (("in", special), ("outside", others)):
            if not rows.any():
                raise UnderstudyError(
                    f"{source.name} has no sample {name} the group {', '.join(group[:8])}; use data with all of the "
                    "generalist's classes"
                )
        return cls(special.nonzero().flatten(), others.nonzero().flatten(), seed)

    def __len__(self) -> int:
        return 2 * len(self.special)

    def __call__(self, epoch: int) -> Tensor:
        number, every = len(self.special), len(self.others)
        place = torch.arange(epoch * number, (epoch + 1) * number)
        rounds = range(int(place[0]) // every, int(place[-1]) // every + 1)
        stream = torch.cat([permutation(every, self.seed, _REST, one) for one in rounds])
        drawn = self.others[stream[place - rounds[0] * every]]
        rows = torch.cat([self.special, drawn])
        return rows[torch.argsort(mix(self.seed, _ORDER, epoch, torch.arange(len(rows))), stable=True)]


def log_oversampling(source: Source, group: Sequence[str]) -> float:
    """Log of the factor by which `SpecialistSampler` oversamples a group.

    If a fraction pi of the labeled samples belongs to the group, its prior odds in training are 1 instead of
    pi / (1 - pi), and by Bayes' rule all posterior odds change by the same factor. Adding `log((1 - pi) / pi)` to the
    dustbin's logit is the exact correction.

    Example:
        One sample in four belongs to the group, so training triples its odds:

        >>> from understudy.data import ArraySource
        >>> labels, inputs = torch.tensor([0, 1, 1, 1]), torch.zeros(4, 2)
        >>> source = ArraySource("pets", ("cat", "dog"), torch.arange(4), labels, (2,), inputs=inputs)
        >>> round(log_oversampling(source, ["cat"]), 3)  # log 3
        1.099
    """
    drawn = SpecialistSampler.of(source, group, 0)
    return float(torch.tensor(len(drawn.others) / len(drawn.special), dtype=torch.float64).log())
