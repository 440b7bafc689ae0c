"""Feature taps: which layers of the two networks are compared, and how their shapes are matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import BuildContext, Needs, Objective, require_teacher
from understudy.objectives.batch_norm import ChannelNorm
from understudy.objectives.precision import to_float32
from understudy.objectives.ranks import all_gather
from understudy.signals import Batch, Shapes, Signals

Shape = tuple[int, ...]
Taps = Sequence[tuple[str, str]]
"""Names of taps, (student, teacher)."""

PRE = ":pre"
"""Ends the name of what an activation reads that ends a tapped layer, or directly follows it."""

KINDS = {3: "feature maps (C, H, W)", 1: "vectors (D,)"}


@dataclass(frozen=True)
class TapPair:
    """A layer of the student and the layer of the teacher that it is compared with: names of taps, or "embedding".

    The shapes are those of one sample; objectives without projectors do not need them.
    """

    student: str
    teacher: str
    student_shape: Shape = ()
    teacher_shape: Shape = ()


EMBEDDINGS = TapPair("embedding", "embedding")


class FeatureObjective(Objective):
    """Base of objectives that compare pairs of layers, given from input to output, and sum over the pairs.

    `from_shapes` pairs the taps starting at the output, as many as both networks have, unless they are named:
    `from_shapes(context, taps=[("layer2", "stage3")])`. `ranks` are the numbers of dimensions of a sample that the
    objective can compare, preferred first; empty for any. The layers of the sides that `before_activation` names,
    "student" or "teacher", are taken before the activation that ends them or directly follows them, where there is one.

    >>> from understudy.objectives import AttentionTransfer
    >>> AttentionTransfer([TapPair("layer1", "stage2"), TapPair("layer2", "stage3")])
    AttentionTransfer(layer1 ~ stage2, layer2 ~ stage3)
    """

    ranks: ClassVar[tuple[int, ...]] = (3, 1)
    before_activation: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__()
        if not pairs:
            raise ValueError(f"{type(self).__name__} compares layers: pass at least one TapPair")
        for pair in pairs:
            self._check(pair)
        self.pairs = tuple(pairs)
        self.needs = Needs(frozenset(pair.student for pair in pairs), frozenset(pair.teacher for pair in pairs))

    @classmethod
    def from_shapes(cls, context: BuildContext, *, taps: Taps | None = None, **options: Any) -> Self:
        pairs = named_pairs(context, taps) if taps else cls.default_pairs(context)
        return cls([cls._before(pair, context) for pair in pairs], **options)

    @classmethod
    def _before(cls, pair: TapPair, context: BuildContext) -> TapPair:
        """A pair with the layers before their activations that are to be, as far as these are known."""
        student, teacher = (
            tap + PRE if side in cls.before_activation and tap in shapes.activated else tap
            for side, tap, shapes in (
                ("student", pair.student, context.student), ("teacher", pair.teacher, context.teacher),
            )
        )  # fmt: skip
        return replace(pair, student=student, teacher=teacher)

    @classmethod
    def default_pairs(cls, context: BuildContext) -> tuple[TapPair, ...]:
        """The pairs to compare if no taps are named: as many as both networks have, counted from the output."""
        student, teacher = cls._comparable(context)
        return named_pairs(context, list(zip(student[::-1], teacher[::-1], strict=False))[::-1])

    @classmethod
    def stage_pairs(cls, context: BuildContext) -> tuple[TapPair, ...]:
        """The same pairs counted from the input: the first tap with the first, as far as both networks have any."""
        return named_pairs(context, list(zip(*cls._comparable(context), strict=False)))

    @classmethod
    def _comparable(cls, context: BuildContext) -> tuple[list[str], list[str]]:
        """The taps of student and teacher that are of the first rank of `ranks` that both have."""
        student, teacher = context.student.features, context.teacher.features
        for rank in cls.ranks or (None,):
            sides = [[tap for tap, shape in side.items() if rank in (None, len(shape))] for side in (student, teacher)]
            if all(sides):
                return sides[0], sides[1]
        kinds = " or ".join(KINDS[rank] for rank in cls.ranks) or "any tapped layers"
        raise ValueError(
            f"{cls.__name__} compares {kinds}, but the student's taps are {_join(student)} and the teacher's "
            f"{_join(teacher)}: tap such layers in both networks, or use an objective of logits or embeddings"
        )

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        teacher = require_teacher(self, teacher)
        with torch.autocast(student.logits.device.type, enabled=False):
            students = [to_float32(tap_of(student, pair.student, "student")) for pair in self.pairs]
            teachers = [to_float32(tap_of(teacher, pair.teacher, "teacher")).detach() for pair in self.pairs]
            if not self.per_sample:
                joint = all_gather(*students, *teachers)
                students, teachers = joint[: len(self.pairs)], joint[len(self.pairs) :]
            return self.total(list(zip(students, teachers, strict=True)))

    def total(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The loss of all pairs, given (student, teacher) float32 outputs in the order of `pairs`."""
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
                f"{type(self).__name__} compares {kinds}, but the student's {pair.student} is {pair.student_shape} "
                f"and the teacher's {pair.teacher} is {pair.teacher_shape}: choose other taps"
            )


class EmbeddingObjective(FeatureObjective):
    """Base of objectives that compare the samples of a batch with one another, by their embeddings by default."""

    ranks = ()
    per_sample = False

    def __init__(self, pairs: Sequence[TapPair] = (EMBEDDINGS,)) -> None:
        super().__init__(pairs)

    @classmethod
    def default_pairs(cls, context: BuildContext) -> tuple[TapPair, ...]:
        return named_pairs(context, [(EMBEDDINGS.student, EMBEDDINGS.teacher)])


def named_pairs(context: BuildContext, taps: Taps) -> tuple[TapPair, ...]:
    """The pairs of these (student, teacher) names of taps, with their shapes."""
    return tuple(
        TapPair(s, t, shape_of(context.student, s, "student"), shape_of(context.teacher, t, "teacher")) for s, t in taps
    )


def match_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool feature maps to the smaller height and width of the two; vectors are returned unchanged.

    >>> [tuple(x.shape) for x in match_size(torch.zeros(2, 16, 8, 4), torch.zeros(2, 64, 4, 4))]
    [(2, 16, 4, 4), (2, 64, 4, 4)]
    """
    if student.dim() != teacher.dim():
        raise ValueError(
            f"the student's layer is {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}: compare "
            "maps with maps, or vectors with vectors"
        )
    if student.dim() < 4:
        return student, teacher
    size = tuple(map(min, student.shape[2:], teacher.shape[2:]))
    return pool_to(student, size), pool_to(teacher, size)


def pool_to(x: Tensor, size: Shape) -> Tensor:
    """Average-pool feature maps to (h, w), unless they already are of this size."""
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size)  # type: ignore[arg-type]


def pointwise(inputs: int, outputs: int, rank: int, bias: bool = False) -> nn.Conv2d | nn.Linear:
    """The same linear map at every position: a 1x1 convolution for maps, a Linear for vectors."""
    return nn.Conv2d(inputs, outputs, 1, bias=bias) if rank == 3 else nn.Linear(inputs, outputs, bias=bias)


def make_regressor(pair: TapPair) -> nn.Module:
    """From the student's channels to the teacher's: a pointwise map and BatchNorm.

    The BatchNorm keeps weights like FitNet's 100 stable, whatever the scale of the features.
    """
    student, teacher = shapes_of(pair)
    return nn.Sequential(pointwise(student[0], teacher[0], len(student)), ChannelNorm(teacher[0]))


def shapes_of(pair: TapPair) -> tuple[Shape, Shape]:
    """The student's and the teacher's shape of a pair, for objectives that are built from them."""
    if not (pair.student_shape and pair.teacher_shape):
        raise ValueError(f"the projector from {pair.student} to {pair.teacher} needs the shapes of both layers")
    return pair.student_shape, pair.teacher_shape


def shape_of(shapes: Shapes, tap: str, side: Literal["student", "teacher"]) -> Shape:
    """The shape of a tap, or of the embedding."""
    maps = {"maps": shapes.maps, "cams": (shapes.classes, *shapes.maps[1:])} if shapes.maps else {}
    known = {**shapes.features, **shapes.stem, **maps, "embedding": (shapes.embedding,)}
    known |= {f"{name}{PRE}": shapes.features[name] for name in shapes.activated}
    if tap not in known:
        raise ValueError(f"the {side} has no tap {tap!r}; it has {_join(known)}")
    return known[tap]


def tap_of(signals: Signals, tap: str, side: Literal["student", "teacher"]) -> Tensor:
    """The output of a tap, or the embedding."""
    x = signals.embedding if tap == "embedding" else signals.features.get(tap)
    if x is None:
        raise ValueError(f"the {side}'s signals lack {tap!r}, which the objective declares in `needs`: compute it")
    return x


def _join(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
