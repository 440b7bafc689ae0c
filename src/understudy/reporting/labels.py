"""Where the labels of points go, so that none lies on another, on a point or on a bar."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, hypot, pi, sin

Box = tuple[float, float, float, float]  # left, bottom, right, top

_NEAR = 8.0  # from a point to its label, where there is room
_RINGS = (_NEAR, 15.0, 24.0, 36.0, 50.0, 66.0)
_ANGLES = tuple(pi * turn for turn in (0, 1, 1 / 4, -1 / 4, 3 / 4, -3 / 4, 1 / 2, -1 / 2))


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], taken: Sequence[Box], within: Box
) -> list[Box]:
    """A box for each point's label, as near to it as is free, in the order given.

    Where nothing is free within the largest ring, the place that covers least is taken.

    Args:
        points: (x, y), in any unit.
        sizes: (width, height) of each label, in the same.
        taken: boxes that no label may lie on: the points themselves and what is drawn about them.
        within: the box that all labels stay in.
    """
    full, found = list(taken), []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        spots = [_spot(x, y, width, height, ring, angle) for ring in _RINGS for angle in _ANGLES]
        best = min(spots, key=lambda spot: _covered(spot, full, within))  # the first of equals, so the nearest
        full.append(best)
        found.append(best)
    return found


def is_far(point: tuple[float, float], box: Box) -> bool:
    """Whether a label needs a line to its point."""
    dx = max(box[0] - point[0], 0.0, point[0] - box[2])
    dy = max(box[1] - point[1], 0.0, point[1] - box[3])
    return hypot(dx, dy) > 1.2 * _NEAR


def _spot(x: float, y: float, width: float, height: float, ring: float, angle: float) -> Box:
    """The box whose side towards the point is `ring` away from it, in the direction of `angle`."""
    toward_x, toward_y = cos(angle), sin(angle)
    left = x + ring * toward_x - width * (1 - _sign(toward_x)) / 2
    bottom = y + ring * toward_y - height * (1 - _sign(toward_y)) / 2
    return left, bottom, left + width, bottom + height


def _sign(value: float) -> int:
    return 0 if abs(value) < 1e-9 else 1 if value > 0 else -1


def _covered(box: Box, full: Sequence[Box], within: Box) -> float:
    """The area of `box` that lies on others or outside."""
    inside = _overlap(box, within)
    return sum(_overlap(box, other) for other in full) + (box[2] - box[0]) * (box[3] - box[1]) - inside


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
