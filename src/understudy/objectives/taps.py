"""Taps: which layers of the two networks are compared, and how their shapes are made to meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import Needs, Objective, Setting, teacher_of
from understudy.objectives.numerics import full
from understudy.signals import Batch, Shapes, Signals

Shape = tuple[int, ...]

KINDS = {3: "feature maps (C, H, W)", 1: "vectors (D,)"}


@dataclass(frozen=True)
class TapPair:
    """A layer of the student's beside one of the teacher's: names of taps, or "embedding", and shapes of one sample.

    Objectives without projectors ask for no shapes.
    """

    student: str
    teacher: str
    student_shape: Shape = ()
    teacher_shape: Shape = ()


EMBEDDINGS = TapPair("embedding", "embedding")


class Tapped(Objective):
    """An objective that compares layers in pairs, and sums over the pairs; `needs` follows from them.

    `suited` pairs the taps from the output end, as many as both sides have, unless it is told which:
    `suited(setting, taps=[("layer2", "stage3")])`.

    Args:
        pairs: the layers to compare, from the input to the output.

    Attributes:
        ranks: the numbers of dimensions it can compare, the preferred first; empty where any will do.
    """

    ranks: ClassVar[tuple[int, ...]] = (3, 1)

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__()
        if not pairs:
            raise ValueError(f"{type(self).__name__} compares layers: give it at least one TapPair")
        for pair in pairs:
            self._check(pair)
        self.pairs = tuple(pairs)
        self.needs = Needs(frozenset(pair.student for pair in pairs), frozenset(pair.teacher for pair in pairs))

    @classmethod
    def suited(cls, setting: Setting, *, taps: Sequence[tuple[str, str]] | None = None, **options: Any) -> Self:
        return cls(named_pairs(setting, taps) if taps else cls.choose(setting), **options)

    @classmethod
    def choose(cls, setting: Setting) -> tuple[TapPair, ...]:
        """The pairs to compare where nobody says which."""
        return aligned_pairs(setting, cls.ranks, cls.__name__)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        teacher = teacher_of(self, teacher)
        with torch.autocast(student.logits.device.type, enabled=False):
            layers = [
                (full(_read(student, pair.student, "student")), full(_read(teacher, pair.teacher, "teacher")).detach())
                for pair in self.pairs
            ]
            return self.total(layers)

    def total(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The loss of all pairs, from (student's, teacher's) float32 outputs in the order of `pairs`."""
        return torch.stack([self.compare(i, s, t) for i, (s, t) in enumerate(layers)]).sum()

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of one pair."""
        raise NotImplementedError(f"{type(self).__name__} must define compare or total")

    def extra_repr(self) -> str:
        return ", ".join(f"{pair.student} ~ {pair.teacher}" for pair in self.pairs)

    def _check(self, pair: TapPair) -> None:
        ranks = {len(shape) for shape in (pair.student_shape, pair.teacher_shape) if shape}
        if self.ranks and (len(ranks) > 1 or not ranks <= set(self.ranks)):
            kinds = " or ".join(KINDS[rank] for rank in self.ranks)
            raise ValueError(
                f"{type(self).__name__} compares {kinds} of both sides; the student's {pair.student} is "
                f"{pair.student_shape} and the teacher's {pair.teacher} {pair.teacher_shape}: choose other taps"
            )


class Embedded(Tapped):
    """A `Tapped` that compares the samples of a batch with one another, by their embeddings unless told otherwise."""

    ranks = ()
    rowwise = False

    def __init__(self, pairs: Sequence[TapPair] = (EMBEDDINGS,)) -> None:
        super().__init__(pairs)

    @classmethod
    def choose(cls, setting: Setting) -> tuple[TapPair, ...]:
        return (EMBEDDINGS,)


def aligned_pairs(setting: Setting, ranks: Sequence[int], name: str) -> tuple[TapPair, ...]:
    """Pairs of taps from the output end, as many as both sides have, of the first kind that both have.

    Args:
        ranks: the numbers of dimensions wanted, the preferred first; empty for any.
        name: who asks, for the message.

    Raises:
        ValueError: a side has no such taps.
    """
    student, teacher = setting.student.features, setting.teacher.features
    for rank in ranks or (None,):
        sides = [[tap for tap, shape in side.items() if rank in (None, len(shape))] for side in (student, teacher)]
        if all(sides):
            return named_pairs(setting, list(zip(sides[0][::-1], sides[1][::-1], strict=False))[::-1])
    kinds = " or ".join(KINDS[rank] for rank in ranks) or "any tapped layers"
    raise ValueError(
        f"{name} compares {kinds}; the student's taps are {_listed(student)}, the teacher's {_listed(teacher)}: "
        "tap such layers in both networks, or use an objective of logits or embeddings"
    )


def named_pairs(setting: Setting, taps: Sequence[tuple[str, str]]) -> tuple[TapPair, ...]:
    """The pairs of these names of taps, (student's, teacher's), with their shapes in the setting."""
    return tuple(
        TapPair(s, t, _shape(setting.student, s, "student"), _shape(setting.teacher, t, "teacher")) for s, t in taps
    )


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Feature maps at one size, the smaller in each direction, by adaptive average pooling; vectors as they are."""
    if student.dim() != teacher.dim():
        raise ValueError(
            f"the student's layer is {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}: compare "
            "maps with maps, or vectors with vectors"
        )
    if student.dim() < 4:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return pooled(student, size), pooled(teacher, size)


def pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size)


def pointwise(inputs: int, outputs: int, rank: int, bias: bool = False) -> nn.Module:
    """The same linear map at every position: a 1x1 convolution for maps, a Linear for vectors."""
    return nn.Conv2d(inputs, outputs, 1, bias=bias) if rank == 3 else nn.Linear(inputs, outputs, bias=bias)


def regressor(pair: TapPair) -> nn.Module:
    """From the student's channels to the teacher's: a pointwise map and BatchNorm.

    The BatchNorm keeps weights like FitNet's 100 stable, whatever the size of the features.
    """
    student, teacher = shapes_of(pair)
    return nn.Sequential(pointwise(student[0], teacher[0], len(student)), ChannelNorm(teacher[0]))


def shapes_of(pair: TapPair) -> tuple[Shape, Shape]:
    """The student's and the teacher's shape of a pair, for an objective that is built from them."""
    if not (pair.student_shape and pair.teacher_shape):
        raise ValueError(f"a projector from {pair.student} to {pair.teacher} is built from their shapes: give both")
    return pair.student_shape, pair.teacher_shape


class ChannelNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm of (B, C) or (B, C, H, W). A batch with one value a channel, the last of an epoch perhaps, has no
    variance of its own: it is normalised by the running statistics instead of refused."""

    def forward(self, input: Tensor) -> Tensor:
        if input.numel() > input.shape[1]:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _shape(side: Shapes, tap: str, who: Literal["student", "teacher"]) -> Shape:
    known = {**side.features, "embedding": (side.embedding,)}
    if tap not in known:
        raise ValueError(f"the {who} has no tap {tap!r}; it has {_listed(known)}")
    return known[tap]


def _read(signals: Signals, tap: str, who: Literal["student", "teacher"]) -> Tensor:
    x = signals.embedding if tap == "embedding" else signals.features.get(tap)
    if x is None:
        raise ValueError(f"the {who}'s signals lack {tap!r}, which the objective declares in `needs`: compute it")
    return x


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
