"""Patch tokens and feature maps: each position of the student points where the teacher's does (RADIO, AM-RADIO)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives.base import BuildContext
from understudy.objectives.features import FeatureObjective, Shape, TapPair, named_pairs, pool_to, shapes_of
from understudy.objectives.precision import full_precision, unit
from understudy.signals import Shapes

_PREFIX = 9  # class, distillation and register tokens before the patches: at most so many


@full_precision
def patch_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`mean (1 - cos)` over samples and positions of maps (B, C, h, w) of one shape.

    >>> import torch
    >>> x = torch.ones(1, 2, 3, 3)
    >>> round(float(patch_loss(5 * x, x)), 4), round(float(patch_loss(-x, x)), 4)
    (0.0, 2.0)
    """
    return 1 - (unit(student.movedim(1, -1)) * unit(teacher.movedim(1, -1))).sum(-1).mean()


def grid_of(shape: Shape) -> Shape:
    """(C, h, w) of a layer's output for a sample: a map (C, h, w), or tokens (T, D) with a square grid of patches.

    Raises a ValueError if there is no such grid, or of a single position.

    >>> grid_of((145, 384)), grid_of((96, 7, 7))
    ((384, 12, 12), (96, 7, 7))
    """
    if len(shape) == 3:
        found = shape
    else:
        side = math.isqrt(shape[0]) if len(shape) == 2 else 0
        if not side or shape[0] - side**2 > _PREFIX:
            raise ValueError(f"{shape} is neither a feature map nor tokens of a square grid of patches")
        found = (shape[1], side, side)
    if found[1] * found[2] < 2:
        raise ValueError(f"{shape} has a single position, so there are no patches to match: choose an earlier layer")
    return found


def as_map(x: Tensor) -> Tensor:
    """(B, C, h, w) of a map or of tokens (B, T, D), whose first ones, before the grid, are left out."""
    if x.dim() == 4:
        return x
    width, side, _ = grid_of(tuple(x.shape[1:]))
    return x[:, -(side**2) :].mT.reshape(len(x), width, side, side)


def resized_to(x: Tensor, size: Shape) -> Tensor:
    """A map of another height and width: averaged where it is larger, interpolated where it is smaller."""
    x = pool_to(x, tuple(map(min, x.shape[2:], size)))
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)  # type: ignore[arg-type]


class PatchObjective(FeatureObjective):
    """Base of objectives of positions: the last layer of each network that has several, unless `taps` name others."""

    ranks = ()
    labels_beside: ClassVar[bool] = False

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__(pairs)
        for pair in pairs:
            for side, shape in zip(("student", "teacher"), (pair.student_shape, pair.teacher_shape), strict=True):
                try:
                    grid_of(shape) if shape else None
                except ValueError as error:
                    name = pair.student if side == "student" else pair.teacher
                    raise ValueError(f"the {side}'s {name} of {error}") from None

    @classmethod
    def default_pairs(cls, context: BuildContext) -> tuple[TapPair, ...]:
        return named_pairs(context, [(_last(context.student, "student"), _last(context.teacher, "teacher"))])

    def compare(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        teacher = as_map(teacher)
        return self.positions(index, resized_to(as_map(student), tuple(teacher.shape[2:])), teacher)

    def positions(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of maps (B, C, h, w) and (B, D, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} must define positions")


def _last(shapes: Shapes, side: Literal["student", "teacher"]) -> str:
    for name, shape in list(shapes.features.items())[::-1]:
        try:
            grid_of(shape)
        except ValueError:
            continue
        return name
    known = ", ".join(f"{name} {shape}" for name, shape in shapes.features.items()) or "none"
    raise ValueError(
        f"the {side} has no layer with a grid of patches (taps: {known}): name one with --{side}-taps, or use an "
        "objective of embeddings"
    )


class Patches(PatchObjective):
    """`patch_loss` after a 1x1 projection of the student's map, resized to the teacher's grid; labels are not read."""

    summary = "each position, through a projector, points where the teacher's patch does (cosine)"

    def __init__(self, pairs: Sequence[TapPair]) -> None:
        super().__init__(pairs)
        widths = [[grid_of(shape)[0] for shape in shapes_of(pair)] for pair in pairs]
        self.projectors = nn.ModuleList(nn.Conv2d(student, teacher, 1) for student, teacher in widths)

    def positions(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        return patch_loss(self.projectors[index](student), teacher)
