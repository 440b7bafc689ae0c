"""The page: one self-contained HTML file: what a run gained, what it costs, and how to make it again."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from understudy import __version__
from understudy.reporting import (
    comparison,
    comparison_figures,
    contrast,
    figures,
    heatmaps,
    speech_figures,
    summary,
    verdicts,
    wording,
)
from understudy.reporting.facts import Confusions, Matrix, Picture, Role, Row, RunFacts
from understudy.reporting.gain import gain

_TINY = 64  # pixels; smaller images are shown as squares, not blurred
_LARGEST = 160  # pixels shown of a larger one
_LINE = 90  # characters of a command that stay on one line
_TOP_CLASSES = 5
_TOP_CONFUSIONS = 10


def render(facts: RunFacts) -> str:
    """The whole page as one string of HTML. What the facts lack, the page leaves out."""
    distilled = facts.of("distilled")
    several = contrast.is_comparison(facts)
    found = gain(facts, distilled[0]) if distilled and not several else None
    lines = summary.lines(facts)
    gallery = [_tile(picture, facts.classes) for picture in facts.gallery]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            facts=facts,
            version=__version__,
            headline=verdicts.headline(facts) if several else wording.headline(facts),
            bars=bars(facts),
            columns=summary.columns(facts),
            lines=lines,
            asides=[any(line.cells[i].aside for line in lines) for i in range(len(facts.rows))],
            several=several,
            first=distilled[0] if distilled else None,
            compared=compared(facts) if several else None,
            pairs=figures.pairs(found) if found else [],
            evidence=wording.evidence(found) if found else "",
            curves=[] if several else figures.curves(facts),
            curve_key=figures.dashes(facts),
            dashes=figures.DASHES,
            confusions=confusion_lists(facts.confusions) if facts.confusions else [],
            correlations=heatmaps.section(facts),
            heard=speech_figures.section(facts),
            gallery=gallery,
            longest_belief=max((max(b.shares.values()) for tile in gallery for b in tile.beliefs), default=1) or 1,
            command=command_line(facts.command),
            role_names=summary.ROLE_NAMES,
            definitions=definitions(facts),
        )
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """What the page of several methods has in the place of the page of one."""

    lines: list[summary.Line]
    note: str
    reference: str
    differences: list[figures.Panel]
    front: list[figures.Panel]
    front_note: str
    curves_title: str
    curves: list[figures.Panel]
    costs: tuple[list[Row], list[summary.Line]]


def compared(facts: RunFacts) -> Compared:
    of = contrast.reference(facts)
    return Compared(
        comparison.measures(facts),
        verdicts.table_note(facts),
        contrast.title(of) if of else "",
        comparison_figures.differences(facts),
        comparison_figures.front(facts),
        comparison.front_note(facts),
        *comparison_figures.curves(facts),
        comparison.costs(facts),
    )


@cache
def environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("understudy.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": wording.count,
        "percent": wording.percent,
        "duration": wording.duration,
        "signed": wording.signed,
    }
    return environment


@dataclass(frozen=True, slots=True)
class Bar:
    """One model's errors, drawn to scale from zero."""

    row: Row
    errors: float
    width: float  # percent of the longest
    seeds: list[float]  # where each seed lies, in the same percent


def bars(facts: RunFacts) -> list[Bar]:
    """Errors of the models in the headline: the first of each role, of methods all; nothing where there is only one."""
    if contrast.is_comparison(facts):
        return bars_of(facts.of("teacher", "alone", "distilled"))
    rows = [of[0] for role in ("teacher", "alone", "distilled") if (of := facts.of(role))]
    distilled = facts.of("distilled")
    if distilled:  # only the very same student is fair beside it
        rows = [row for row in rows if row.role != "alone"]
        if baseline := facts.baseline(distilled[0]):
            rows.insert(-1, baseline)
    return bars_of(rows if len(rows) > 1 else facts.of("model"))


def bars_of(rows: Sequence[Row]) -> list[Bar]:
    """Errors drawn to the scale of the largest; nothing where there is only one model, or no error."""
    longest = max((seed.errors for row in rows for seed in row.seeds), default=0)
    if len(rows) < 2 or not longest:
        return []

    def scaled(errors: float) -> float:
        return round(100 * errors / longest, 2)

    return [Bar(row, row.errors, scaled(row.errors), [scaled(s.errors) for s in row.seeds]) for row in rows]


@dataclass(frozen=True, slots=True)
class Confusion:
    true: str
    predicted: str
    before: float | None  # the student alone; None where there is only one model
    after: float
    width_before: float  # percent of the longest bar in the list
    width_after: float

    @property
    def change(self) -> float:
        return self.after - (self.before or 0)


@dataclass(frozen=True, slots=True)
class ConfusionList:
    title: str
    total: str
    items: list[Confusion]
    fixed: bool  # whether any mean is not whole, so that all are shown with a decimal


def confusion_lists(facts: Confusions) -> list[ConfusionList]:
    """What distillation removed and what it added; for a single model, what it confuses most."""
    lists = []
    if facts.alone is not None and facts.distilled is not None:
        pairs = [(i, j, facts.alone[i][j], facts.distilled[i][j]) for i, j in _off_diagonal(facts.alone)]
        removed = sorted((pair for pair in pairs if pair[2] > pair[3]), key=lambda pair: pair[3] - pair[2])
        added = sorted((pair for pair in pairs if pair[3] > pair[2]), key=lambda pair: pair[2] - pair[3])
        for title, those in (("Removed", removed), ("Added", added)):
            total = sum(abs(after - before) for _, _, before, after in those)
            text = f"{wording.plural(total, 'error')} over {wording.plural(len(those), 'kind')} of confusion"
            lists.append(_confusion_list(title, text, facts.classes, those))
    elif matrix := facts.distilled or facts.model or facts.alone:
        single = sorted(((i, j, None, matrix[i][j]) for i, j in _off_diagonal(matrix)), key=lambda pair: -pair[3])
        lists.append(_confusion_list("Most frequent", "", facts.classes, single))
    return [one for one in lists if one.items]


def _off_diagonal(matrix: Matrix) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(matrix)) for j in range(len(matrix)) if i != j]


def _confusion_list(
    title: str, total: str, classes: list[str], pairs: Iterable[tuple[int, int, float | None, float]]
) -> ConfusionList:
    top = [pair for pair in pairs if pair[3] or pair[2]][:_TOP_CONFUSIONS]
    longest = max((max(before or 0, after) for _, _, before, after in top), default=1)
    return ConfusionList(
        title,
        total,
        [
            Confusion(classes[i], classes[j], before, after, 100 * (before or 0) / longest, 100 * after / longest)
            for i, j, before, after in top
        ],
        any(not value.is_integer() for _, _, *values in top for value in values if value is not None),
    )


@dataclass(frozen=True, slots=True)
class Belief:
    """One class of a gallery image, and the probability that each model gives it."""

    name: str
    true: bool
    shares: dict[Role, float]


@dataclass(frozen=True, slots=True)
class Tile:
    source: str  # a data URI
    tiny: bool
    label: str
    temperature: str
    beliefs: list[Belief]


def _tile(picture: Picture, classes: Sequence[str]) -> Tile:
    def name(index: int) -> str:
        return classes[index] if 0 <= index < len(classes) else f"class {index}"

    label = name(picture.label) if isinstance(picture.label, int) else picture.label
    models: dict[Role, list[float] | None] = {
        "teacher": picture.teacher,
        "distilled": picture.distilled,
        "alone": picture.alone,
    }
    top = sorted(range(len(picture.teacher)), key=lambda i: -picture.teacher[i])[:_TOP_CLASSES]
    beliefs = [
        Belief(name(i), name(i) == label, {role: p[i] for role, p in models.items() if p is not None}) for i in top
    ]
    source, tiny = _image(picture.png)
    return Tile(source, tiny, label, f"{picture.temperature:g}", beliefs)


def _image(png: bytes) -> tuple[str, bool]:
    """A data URI, and whether the image is tiny. Large ones are shrunk: a page is sent by mail."""
    image = Image.open(io.BytesIO(png))
    kind = "png"
    if max(image.size) > _LARGEST:
        image = image.convert("RGB")
        image.thumbnail((_LARGEST, _LARGEST))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
        png, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(png).decode()}", max(image.size) < _TINY


def command_line(words: Sequence[str]) -> str:
    """Words quoted for a shell, a long line broken before its flags; a single word is a ready line."""
    if len(words) == 1:
        return words[0]
    line = shlex.join(words)
    if len(line) <= _LINE:
        return line
    return "".join(f" \\\n  {word}" if word.startswith("--") else f" {word}" for word in map(shlex.quote, words))[1:]


def definitions(facts: RunFacts) -> dict[str, str]:
    """The measures that the page shows, in one line each."""
    shown = {line.label for line in summary.lines(facts)}
    if contrast.is_comparison(facts):
        shown |= {line.label for line in comparison.measures(facts)}
    if any(len(row.seeds) > 1 for row in facts.of("distilled")):
        shown.add("95% interval")
    return {term: text for term, text in wording.DEFINITIONS.items() if term in shown}
