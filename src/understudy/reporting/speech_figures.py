"""Words on the page: the table of word errors, and one utterance from its sound to its posteriors.

The words of a transcript are drawn into the figure: as text that is never taken for mathematics, and that the SVG's
writer escapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from understudy.reporting.facts import RunFacts
from understudy.reporting.figures import FAINT, INK, RULE, drawing
from understudy.reporting.heard import Example, Listener, SpeechFacts, spread
from understudy.reporting.heatmaps import DISTANCE, POSITIVE

_WIDTH = 10.0  # inches
_ROLES = ("teacher", "alone", "model", "distilled")


@dataclass(frozen=True, slots=True)
class Heard:
    """A row of the table, as text."""

    name: str
    role: str
    accuracy: str
    rates: list[str]  # by kind
    counts: list[str]  # insertions, deletions, substitutions, of all


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of words."""

    kinds: list[str]
    rows: list[Heard]
    said: str
    figure: Markup | None
    notes: list[str]


def section(facts: RunFacts) -> Section | None:
    """The words of a run on speech; None of any other."""
    found = facts.speech
    if found is None:
        return None
    kinds = ["WER" if kind == "all" else f"WER, {kind}" for kind in found.kinds]
    rows = [_row(row, found) for row in found.of(*_ROLES)]
    said = "" if found.example is None else " ".join(found.example.words)
    return Section(kinds, rows, said, None if found.example is None else draw(found.example), found.notes)


def _row(row: Listener, facts: SpeechFacts) -> Heard:
    counts = [f"{value:.1f}" if len(row.seeds) > 1 else f"{value:.0f}" for value in row.counts(facts.kinds[0])]
    return Heard(
        row.name, row.role, spread(row.accuracies()), [spread(row.rates(kind)) for kind in facts.kinds], counts
    )


def draw(example: Example) -> Markup:
    """Spectrogram, alignment and posteriors, one under another over the same seconds."""
    labels = [label or "silence" for label in example.labels]
    models = example.posteriors
    height = 0.17 * len(labels) + 0.3
    heights = [1.7, 0.45, *[height] * len(models)]
    with drawing(
        "utterance", "Spectrogram, alignment and posteriors of one utterance", (_WIDTH, sum(heights) + 0.6)
    ) as (
        figure,
        svg,
    ):
        axes = _stacked(figure, heights)
        seconds = len(example.spectrogram[0]) * example.hop
        values = np.array(example.spectrogram)
        low, high = np.quantile(values, [0.02, 0.995])
        _map(axes[0], (values - low) / max(high - low, 1e-6), seconds, DISTANCE)
        _label(axes[0], "Mel bands", [])
        _alignment(axes[1], example)
        for axis, model in zip(axes[2:], models, strict=True):
            _map(axis, np.array(model.values)[::-1], seconds, POSITIVE)
            _label(axis, model.name, labels)
            _bounds(axis, example)
        for axis in axes[:-1]:
            axis.tick_params(labelbottom=False)
        axes[-1].set_xlabel("seconds")
    return svg()


def _stacked(figure: Figure, heights: Sequence[float]) -> list[Axes]:
    return list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))


def _map(axis: Axes, values: np.ndarray, seconds: float, colour: tuple[int, int, int]) -> None:
    """Values in [0, 1], the first row at the bottom, as one colour over the page's own background."""
    pixels = np.zeros((*values.shape, 4))
    pixels[..., :3] = np.array(colour) / 255
    pixels[..., 3] = values.clip(0, 1)
    extent = (0.0, seconds, 0.0, float(len(values)))
    axis.imshow(pixels, extent=extent, aspect="auto", origin="lower", interpolation="nearest")
    axis.grid(visible=False)


def _label(axis: Axes, title: str, rows: list[str]) -> None:
    axis.set_title(title, loc="left", fontsize=10, color=FAINT, parse_math=False, pad=3)
    axis.set_yticks([len(rows) - i - 0.5 for i in range(len(rows))])
    axis.set_yticklabels(rows, fontsize=8, parse_math=False)


def _alignment(axis: Axes, example: Example) -> None:
    """A stretch for each word, silence left clear."""
    for part in example.alignment:
        start, end = part.first * example.hop, part.after * example.hop
        if part.word:
            axis.axvspan(start, end, color=RULE, linewidth=0)
            axis.text(
                (start + end) / 2, 0.5, part.word, ha="center", va="center", color=INK, fontsize=10, parse_math=False
            )
    axis.set_ylim(0, 1)
    axis.grid(visible=False)
    _label(axis, "Alignment", [])


def _bounds(axis: Axes, example: Example) -> None:
    for part in example.alignment[1:]:
        axis.axvline(part.first * example.hop, color=RULE, linewidth=0.8)


def spoken_lines(facts: SpeechFacts) -> list[tuple[str, ...]]:
    """The table for the terminal: a row for each model."""
    rows = [_row(row, facts) for row in facts.of(*_ROLES)]
    return [(row.name, row.accuracy, *row.rates, " / ".join(row.counts)) for row in rows]
