"""What a specialist learns from: its classes and one for all others, and half of each epoch from either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.randomness import mix, name_key, permutation

_ORDER, _REST = name_key("half and half"), name_key("the rest")


def dustbin_of(classes: Sequence[str]) -> str:
    """A name for the class of all others, which is none of the classes'."""
    name = "dustbin"
    while name in classes:
        name += "_"
    return name


def narrowed(source: Source, group: Sequence[str]) -> Source:
    """The same samples with a group's classes as 0, 1, ... in the order named, and all others as one last class.

    Samples without a label (-1) stay so.
    """
    assert source.targets is not None
    place = torch.full((len(source.classes),), len(group))
    place[[source.classes.index(name) for name in group]] = torch.arange(len(group))
    targets = torch.where(source.targets < 0, source.targets, place[source.targets])
    return replace(source, classes=(*group, dustbin_of(source.classes)), targets=targets)


@dataclass(frozen=True)
class HalfAndHalf:
    """The rows of each epoch: every special sample once and as many of the others, shuffled.

    The others are taken in turn from one shuffled round of them after another, so that over the epochs all are seen
    alike. All is a pure function of the seed and the epoch.

    Attributes:
        special, others: row numbers (int64) in the source, neither empty.
    """

    special: Tensor
    others: Tensor
    seed: int

    @classmethod
    def of(cls, source: Source, group: Sequence[str], seed: int) -> HalfAndHalf:
        """Of a source's labelled samples, those of a group of classes and all others."""
        assert source.targets is not None
        chosen = torch.tensor([source.classes.index(name) for name in group])
        special = torch.isin(source.targets, chosen)
        others = ~special & (source.targets >= 0)
        for name, rows in (("of", special), ("outside of", others)):
            if not rows.any():
                raise UnderstudyError(
                    f"{source.name} has no sample {name} the group {', '.join(group[:8])}; give data that holds all of "
                    "the generalist's classes"
                )
        return cls(special.nonzero().flatten(), others.nonzero().flatten(), seed)

    def __len__(self) -> int:
        return 2 * len(self.special)

    def __call__(self, epoch: int) -> Tensor:
        """Row numbers (int64), twice as many as there are special samples."""
        number, every = len(self.special), len(self.others)
        place = torch.arange(epoch * number, (epoch + 1) * number)
        rounds = range(int(place[0]) // every, int(place[-1]) // every + 1)
        stream = torch.cat([permutation(every, self.seed, _REST, one) for one in rounds])
        drawn = self.others[stream[place - rounds[0] * every]]
        rows = torch.cat([self.special, drawn])
        return rows[torch.argsort(mix(self.seed, _ORDER, epoch, torch.arange(len(rows))), stable=True)]


def log_oversampling(source: Source, group: Sequence[str]) -> float:
    """What a specialist's dustbin lacks: the log of the factor by which half and half over-samples the group.

    The group has the share pi of the labelled samples and half of those that are drawn, its chance against the others'
    grows from pi / (1 - pi) to 1, and so does, by Bayes' rule, every posterior's odds. Raising the dustbin's logit by
    `log((1 - pi) / pi)` undoes that exactly.
    """
    drawn = HalfAndHalf.of(source, group, 0)
    return float(torch.tensor(len(drawn.others) / len(drawn.special), dtype=torch.float64).log())
