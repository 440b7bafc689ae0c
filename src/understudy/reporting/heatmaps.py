"""Heat maps of class correlations: one pixel per pair of classes, in colors for light and dark backgrounds."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from math import isfinite

import numpy as np
from PIL import Image

from understudy.evaluation.facts import CorrelationMap, Matrix, RunFacts
from understudy.reporting.summary import ROLE_NAMES, own_name

_NAMED = 24  # maximum number of classes whose names fit beside the rows of a map
# Zero is transparent and the largest value opaque.
NEGATIVE, POSITIVE, DISTANCE = (214, 90, 60), (62, 118, 200), (150, 88, 190)


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One map, as a PNG in a data URI."""

    title: str
    name: str  # of the row, if it differs from the title
    mean: float | None  # of a map of differences, as in the table
    source: str


def section(facts: RunFacts) -> dict[str, object] | None:
    """Variables of the section on class correlations; None without a teacher."""
    found = facts.correlations
    if found is None:
        return None
    largest = max((x for map in found.differences for row in map.matrix for x in row if isfinite(x)), default=0.0)
    side, classes = len(found.maps[0].matrix), len(found.classes)
    return {
        "maps": [_heat_map(facts, map, 1.0, POSITIVE) for map in found.maps],
        "differences": [_heat_map(facts, map, largest, DISTANCE) for map in found.differences],
        "largest": largest,  # the end of the common scale of the differences
        "names": found.classes if side == classes <= _NAMED else [],
        "blocks": side < classes,  # a cell is the mean of several classes
        "pairs": found.pairs,
    }


def _heat_map(facts: RunFacts, map: CorrelationMap, scale: float, color: tuple[int, int, int]) -> HeatMap:
    row = next((row for row in facts.of(map.role) if row.name == map.name), None)
    mean = row.mean("correlation_difference") if row and color is DISTANCE else None
    return HeatMap(ROLE_NAMES[map.role], own_name(map.role, map.name), mean, png_uri(map.matrix, scale, color))


def png_uri(matrix: Matrix, scale: float, color: tuple[int, int, int]) -> str:
    """The data URI of a PNG with a palette: index 127 is zero, 254 is `scale`, 0 its negative."""
    values = np.nan_to_num(np.array(matrix, dtype=float)) / (scale or 1)
    image = Image.fromarray((127 + 127 * values.clip(-1, 1)).round().astype(np.uint8)).convert("P")
    image.putpalette([*NEGATIVE * 127, *color * 128])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes(round(255 * abs(i - 127) / 127) for i in range(255)))
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
