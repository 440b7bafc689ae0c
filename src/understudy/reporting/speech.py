"""The speech section: the table of word errors, and one utterance from its spectrogram to its posteriors.

Transcripts are drawn as text that is never parsed as mathematics and that the SVG writer escapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from rich.table import Table
from rich.text import Text

from understudy.evaluation.facts import Example, RunFacts, SpeechFacts
from understudy.reporting.figures import FAINT, INK, RULE, drawing
from understudy.reporting.heatmaps import DISTANCE, POSITIVE
from understudy.reporting.table import left, right, table
from understudy.reporting.wording import mean_sd

_WIDTH = 10.0  # inches
_ROLES = ("teacher", "alone", "model", "distilled")


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table, as text."""

    name: str
    role: str
    accuracy: str
    rates: list[str]  # by kind
    counts: list[str]  # insertions, deletions and substitutions over all utterances


def section(facts: RunFacts) -> dict[str, object] | None:
    """Variables of the section of a speech run; None for other runs."""
    speech = facts.speech
    if speech is None:
        return None
    example = speech.example
    shown = {"transcript": " ".join(example.words), "figure": draw(example)} if example else {"figure": None}
    return {"kinds": _kinds(speech), "lines": _lines(speech), "notes": speech.notes, **shown}


def word_error_table(facts: SpeechFacts) -> Table:
    """Models down, frame accuracy and word errors across."""
    heads = ["frame accuracy, %", *_kinds(facts), "ins / del / sub"]
    made = table(left(), *map(right, heads))
    for line in _lines(facts):
        made.add_row(Text(line.name), line.accuracy, *line.rates, " / ".join(line.counts))
    return made


def _kinds(facts: SpeechFacts) -> list[str]:
    return ["WER" if kind == "all" else f"WER, {kind}" for kind in facts.kinds]


def _lines(facts: SpeechFacts) -> list[Line]:
    lines = []
    for row in facts.of(*_ROLES):
        counts = [f"{value:.1f}" if len(row.seeds) > 1 else f"{value:.0f}" for value in row.counts(facts.kinds[0])]
        rates = [mean_sd(row.rates(kind)) for kind in facts.kinds]
        lines.append(Line(row.name, row.role, mean_sd(row.accuracies()), rates, counts))
    return lines


def draw(example: Example) -> Markup:
    """Spectrogram, alignment and posteriors on a common time axis."""
    labels = [label or "silence" for label in example.labels]
    models = example.posteriors
    heights = [1.7, 0.45, *[0.17 * len(labels) + 0.3] * len(models)]
    size = (_WIDTH, sum(heights) + 0.6)
    with drawing("utterance", "Spectrogram, alignment and posteriors of one utterance", size) as (figure, svg):
        axes: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
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


def _map(axis: Axes, values: np.ndarray, seconds: float, color: tuple[int, int, int]) -> None:
    """Values in [0, 1] as the opacity of one color, with the first row at the bottom."""
    pixels = np.zeros((*values.shape, 4))
    pixels[..., :3] = np.array(color) / 255
    pixels[..., 3] = values.clip(0, 1)
    extent = (0.0, seconds, 0.0, float(len(values)))
    axis.imshow(pixels, extent=extent, aspect="auto", origin="lower", interpolation="nearest")
    axis.grid(visible=False)


def _label(axis: Axes, title: str, rows: list[str]) -> None:
    axis.set_title(title, loc="left", fontsize=10, color=FAINT, parse_math=False, pad=3)
    axis.set_yticks([len(rows) - i - 0.5 for i in range(len(rows))])
    axis.set_yticklabels(rows, fontsize=8, parse_math=False)


def _alignment(axis: Axes, example: Example) -> None:
    """A span per word; silence is left blank."""
    for part in example.alignment:
        start, end = part.first * example.hop, part.after * example.hop
        if part.word:
            axis.axvspan(start, end, color=RULE, linewidth=0)
            style = {"ha": "center", "va": "center", "color": INK, "fontsize": 10}
            axis.text((start + end) / 2, 0.5, part.word, parse_math=False, **style)
    axis.set_ylim(0, 1)
    axis.grid(visible=False)
    _label(axis, "Alignment", [])


def _bounds(axis: Axes, example: Example) -> None:
    for part in example.alignment[1:]:
        axis.axvline(part.first * example.hop, color=RULE, linewidth=0.8)
