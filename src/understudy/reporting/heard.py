"""What a page tells of words: who heard how many of them, and one utterance from its sound to its posteriors."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0)]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class WordErrors(_Facts):
    """Of some utterances: how many words were said, and what went wrong."""

    words: Annotated[int, Field(ge=1)]
    insertions: Count
    deletions: Count
    substitutions: Count

    @property
    def rate(self) -> float:
        """WER in percent."""
        return 100 * (self.insertions + self.deletions + self.substitutions) / self.words


class Listened(_Facts):
    """What one network, or an ensemble, heard."""

    seed: int
    accuracy: float  # of frames
    penalty: float
    errors: dict[str, WordErrors]  # by kind of utterance


class Listener(_Facts):
    """One row: a model, by seed."""

    name: str
    role: str
    seeds: Annotated[list[Listened], Field(min_length=1)]

    def accuracies(self) -> list[float]:
        """Frame accuracy in percent."""
        return [100 * one.accuracy for one in self.seeds]

    def rates(self, kind: str) -> list[float]:
        """WER in percent of the utterances of a kind."""
        return [one.errors[kind].rate for one in self.seeds]

    def counts(self, kind: str) -> tuple[float, float, float]:
        """Mean insertions, deletions and substitutions."""
        own = [one.errors[kind] for one in self.seeds]
        return fmean(e.insertions for e in own), fmean(e.deletions for e in own), fmean(e.substitutions for e in own)


class Segment(_Facts):
    """A word, or silence where it is "", from its first frame to the one after its last."""

    word: str
    first: Count
    after: Count


class Posteriors(_Facts):
    """Probabilities of what is in `Example.labels` over time, in the view of one model."""

    role: str
    name: str
    values: list[list[float]]  # a row for each label


class Example(_Facts):
    """One utterance of the test part."""

    words: list[str]
    hop: float  # seconds from a frame to the next
    spectrogram: list[list[float]]  # a row for each band, from low to high
    alignment: list[Segment]
    labels: list[str]  # words, silence as "", and the rest together as "..."
    posteriors: list[Posteriors]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        frames = {len(row) for row in (*self.spectrogram, *(row for one in self.posteriors for row in one.values))}
        if len(frames) != 1 or self.alignment[-1].after != next(iter(frames)):
            raise ValueError("spectrogram, alignment and posteriors need as many frames")
        if any(len(one.values) != len(self.labels) for one in self.posteriors):
            raise ValueError("posteriors need a row for each label")
        return self


class SpeechFacts(_Facts):
    """The words' part of a run's evaluation."""

    kinds: list[str]  # of utterances; "all" is the first
    rows: Annotated[list[Listener], Field(min_length=1)]
    example: Example | None = None
    notes: list[str] = []

    def of(self, *roles: str) -> list[Listener]:
        return [row for role in roles for row in self.rows if row.role == role]


def spread(values: list[float], digits: int = 1) -> str:
    """`"12.3 ± 0.4"`; the deviation over seeds where there are two or more."""
    sd = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{sd}"
