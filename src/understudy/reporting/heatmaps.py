"""Heat maps of class correlations: one pixel a pair of classes, in colours that hold on light and dark paper."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from math import isfinite

import numpy as np
from PIL import Image

from understudy.reporting.facts import ClassPair, CorrelationMap, Matrix, RunFacts
from understudy.reporting.summary import ROLE_NAMES, own_name

_NAMED = 24  # classes whose names still fit beside the rows of a map
# The zero is clear and the largest opaque, so the page's own background shows through.
NEGATIVE, POSITIVE, DISTANCE = (214, 90, 60), (62, 118, 200), (150, 88, 190)


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One map: whose it is, and a PNG as a data URI."""

    title: str
    name: str  # of the row, where the title does not say it
    mean: float | None  # of a map of differences: the table's number
    source: str


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of class correlations."""

    maps: list[HeatMap]
    differences: list[HeatMap]
    largest: float  # difference, the end of their common scale
    names: list[str]  # beside the rows; none where they would not fit
    blocks: bool  # whether a cell stands for several classes
    pairs: list[ClassPair]


def section(facts: RunFacts) -> Section | None:
    """The maps of a run that has a teacher; None of any other."""
    found = facts.correlations
    if found is None:
        return None
    largest = max((x for one in found.differences for row in one.matrix for x in row if isfinite(x)), default=0.0)
    side, classes = len(found.maps[0].matrix), len(found.classes)
    return Section(
        [_drawn(facts, one, 1.0, POSITIVE) for one in found.maps],
        [_drawn(facts, one, largest, DISTANCE) for one in found.differences],
        largest,
        found.classes if side == classes <= _NAMED else [],
        side < classes,
        found.pairs,
    )


def _drawn(facts: RunFacts, one: CorrelationMap, scale: float, colour: tuple[int, int, int]) -> HeatMap:
    title = ROLE_NAMES[one.role]
    row = next((row for row in facts.of(one.role) if row.name == one.name), None)
    mean = row.mean("correlation_difference") if row and colour is DISTANCE else None
    picture = f"data:image/png;base64,{png(one.matrix, scale, colour)}"
    return HeatMap(title, own_name(one.role, one.name), mean, picture)


def png(matrix: Matrix, scale: float, colour: tuple[int, int, int]) -> str:
    """Base64 of a PNG with a palette: index 127 is zero, 254 is `scale`, 0 its negative."""
    values = np.nan_to_num(np.array(matrix, dtype=float)) / (scale or 1)
    image = Image.fromarray((127 + 127 * values.clip(-1, 1)).round().astype(np.uint8)).convert("P")
    image.putpalette([*NEGATIVE * 127, *colour * 128])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes(round(255 * abs(i - 127) / 127) for i in range(255)))
    return base64.b64encode(file.getvalue()).decode()
