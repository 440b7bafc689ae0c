"""Labels of points never lie on one another where there is room, and never outside."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.reporting.labels import is_far, place

FRAME = (0.0, 0.0, 300.0, 220.0)


def apart(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(40, 260), st.floats(30, 190)), min_size=1, max_size=8, unique=True))
def test_eight_labels_find_room(points: list[tuple[float, float]]) -> None:
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    boxes = place(points, [(40.0, 12.0)] * len(points), marks, FRAME)
    for i, box in enumerate(boxes):
        assert box[0] >= 0
        assert box[1] >= 0
        assert box[2] <= 300
        assert box[3] <= 220
        assert all(apart(box, mark) for mark in marks)
        assert all(apart(box, other) for other in boxes[:i])


def test_a_lone_label_is_to_the_right_and_near() -> None:
    ((left, bottom, right, top),) = place([(100, 100)], [(40, 12)], [(95, 95, 105, 105)], FRAME)
    assert (left, bottom, right, top) == (108, 94, 148, 106)
    assert not is_far((100, 100), (left, bottom, right, top))
    assert is_far((100, 100), (140, 94, 180, 106))


def test_at_the_right_edge_a_label_goes_to_the_left() -> None:
    ((_, _, right, _),) = place([(290, 100)], [(40, 12)], [(285, 95, 295, 105)], FRAME)
    assert right < 290
