"""A distilled representation on the page of its run: the gap closed, neighbors side by side, and maps of the spaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.table import Table

from understudy.evaluation.facts import RepresentationFacts, Space
from understudy.reporting.figures import COLORS, Panel, panel
from understudy.reporting.gallery import embedded
from understudy.reporting.table import left, right, table
from understudy.reporting.wording import MISSING, Headline, compact, milliseconds, percent

_MAP_HEIGHT = 3.4  # inches
# readable on light and on dark, and told apart by most people; more classes have other markers
_CLASSES = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6bb3", "#999999")
_MARKERS = ("o", "^", "s", "D", "v", "P")
NAMES = {"teacher": "Teacher", "start": "Student at the start", "distilled": "Distilled"}


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the table: a label, a unit, and a text for each space."""

    label: str
    unit: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Neighborhood:
    """An image with its nearest ones in each space, as data URIs; `same` says which are of its class, if known."""

    image: str
    label: str
    rows: list[tuple[str, list[tuple[str, bool | None]]]]


def title(space: Space, found: RepresentationFacts) -> str:
    """The name of a space on the page."""
    several = space.role == "distilled" and len(found.of("distilled")) > 1
    return space.name.removeprefix("distilled-") if several else NAMES[space.role]


def measures(found: RepresentationFacts) -> list[Measure]:
    """The measures that at least one space has."""
    spaces = found.spaces

    def shares(label: str, values: Sequence[float | None], digits: int = 1) -> Measure:
        return Measure(label, "%", tuple(MISSING if x is None else f"{100 * x:.{digits}f}" for x in values))

    rows = [
        shares("k-NN accuracy", [s.knn for s in spaces]),
        shares("gap closed, k-NN", [s.knn_gap for s in spaces], 0),
        shares("Linear probe", [s.probe for s in spaces]),
        shares("gap closed, probe", [s.probe_gap for s in spaces], 0),
        shares("Neighbors in common with the teacher", [None if s.role == "teacher" else s.neighbors for s in spaces]),
        shares("gap closed, neighbors", [s.neighbors_gap for s in spaces], 0),
        Measure("CKA with the teacher", "", tuple(MISSING if s.cka is None else f"{s.cka:.3f}" for s in spaces)),
        Measure("Effective rank", "", tuple(f"{s.rank:.0f} of {s.width:,}" for s in spaces)),
        Measure("Parameters", "", tuple(MISSING if s.parameters is None else compact(s.parameters) for s in spaces)),
        Measure("FLOPs", "", tuple(MISSING if s.flops is None else compact(s.flops) for s in spaces)),
        Measure(
            "Latency", "ms, batch 1",
            tuple(MISSING if s.latency_ms is None else milliseconds(s.latency_ms) for s in spaces),
        ),
    ]  # fmt: skip
    return [row for row in rows if any(cell != MISSING for cell in row.cells)]


def headline(found: RepresentationFacts) -> Headline:
    """The finding: how much of the way from the student at the start to the teacher was gone."""
    of, start, teacher = (found.of(role) for role in ("distilled", "start", "teacher"))
    if not (of and start and teacher):
        return Headline("plain", "Not evaluated", "No images were held out, so nothing was compared.")
    student, by = of[0], found.headline
    gap = student.knn_gap if by == "knn" else student.neighbors_gap
    if by == "knn":
        values = [percent(space.knn or 0, 1) for space in (student, start[0], teacher[0])]
        sentence = (
            f"By their nearest neighbors, {values[0]} of {found.queries:,} {found.split} images are told right by the "
            f"distilled student, {values[1]} by the student at the start, and {values[2]} by the teacher"
        )
    else:
        values = [percent(space.neighbors or 0, 1) for space in (student, start[0])]
        sentence = (
            f"Of the nearest neighbors of {found.queries:,} {found.split} images, the distilled student has "
            f"{values[0]} in common with the teacher, and the student at the start {values[1]}"
        )
    cost = ""
    if student.flops and teacher[0].flops:
        cost = f", at {percent(student.flops / teacher[0].flops, 1)} of the teacher's FLOPs"
    if gap is None:
        return Headline("open", "No gap to close", f"{sentence}{cost}.")
    seeds = {space.name.rpartition("-")[2] for space in of}
    verdict, evidence = f"{percent(gap)} of the gap closed", "One seed." if len(seeds) == 1 else ""
    return Headline("good" if gap > 0 else "bad", verdict, f"{sentence}{cost}.", evidence)


def section(found: RepresentationFacts | None, folder: Path) -> dict[str, object] | None:
    """Variables of the section; None for a run that learned classes."""
    if found is None:
        return None
    return {
        "titles": [title(space, found) for space in found.spaces],
        "roles": [{"start": "alone"}.get(space.role, space.role) for space in found.spaces],
        "models": [space.model for space in found.spaces],
        "measures": measures(found),
        "maps": _maps(found),
        "projection": found.projection,
        "labeled": bool(found.labels),
        "neighborhoods": _neighborhoods(found, folder),
        "among": f"{found.keys:,} training images" if found.keys else f"the other {found.queries - 1:,} images",
    }


def console_table(found: RepresentationFacts) -> Table:
    """The measures for the terminal."""
    made = table(left(), *(right(title(space, found), wrap=True) for space in found.spaces),
                 caption=f"{found.data}, {found.queries:,} {found.split} images", gap=3)  # fmt: skip
    for row in measures(found):
        made.add_row(f"{row.label} {row.unit}".strip(), *row.cells)
    return made


def _maps(found: RepresentationFacts) -> list[Panel]:
    first = found.of("distilled")[:1]
    shown = [space for space in found.spaces if space.map and (space.role != "distilled" or space in first)]
    return [Panel(title(space, found), _scatter(space, found)) for space in shown]


def _scatter(space: Space, found: RepresentationFacts) -> Markup:
    """The samples in a plane; a color and a marker for each class."""
    labels = found.labels or [0] * len(space.map)
    with panel(f"map-{space.name}", f"Map of {title(space, found)}", _MAP_HEIGHT) as (ax, svg):
        for label in sorted(set(labels)):
            points = [point for point, own in zip(space.map, labels, strict=False) if own == label]
            color = _CLASSES[label % len(_CLASSES)] if found.labels else COLORS["distilled"]
            ax.scatter(
                *zip(*points, strict=True), s=14, color=color, linewidths=0, alpha=0.85,
                marker=_MARKERS[label // len(_CLASSES) % len(_MARKERS)],
            )  # fmt: skip
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    return svg()


def _neighborhoods(found: RepresentationFacts, folder: Path) -> list[Neighborhood]:
    names = {space.name: title(space, found) for space in found.spaces}
    made = []
    for one in found.nearest:
        rows = []
        for name, images in one.images.items():
            same = one.same.get(name) or [None] * len(images)
            pairs = [(embedded(folder, image)[0], alike) for image, alike in zip(images, same, strict=True)]
            rows.append((names.get(name, name), pairs))
        made.append(Neighborhood(embedded(folder, one.image)[0], one.label, rows))
    return made
