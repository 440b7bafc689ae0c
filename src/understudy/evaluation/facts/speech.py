"""Facts of a speech run: word errors, and one utterance from its spectrogram to its posteriors."""

from __future__ import annotations

from statistics import fmean
from typing import Annotated, Self

from pydantic import Field, model_validator

from understudy.evaluation.facts.base import Facts

Count = Annotated[int, Field(ge=0)]


class WordErrors(Facts):
    """Word errors over some utterances.

    >>> round(WordErrors(words=40, insertions=1, deletions=0, substitutions=1).rate, 1)
    5.0
    """

    words: Annotated[int, Field(ge=1)]
    insertions: Count
    deletions: Count
    substitutions: Count

    @property
    def rate(self) -> float:
        """WER in percent."""
        return 100 * (self.insertions + self.deletions + self.substitutions) / self.words


class SpeechSeed(Facts):
    """The scores of one network or ensemble."""

    seed: int
    accuracy: float  # of frames
    penalty: float  # for beginning a word, as chosen on the validation split
    errors: dict[str, WordErrors]  # by kind of utterance


class SpeechRow(Facts):
    """One model: its scores per seed."""

    name: str
    role: str
    seeds: Annotated[list[SpeechSeed], Field(min_length=1)]

    def accuracies(self) -> list[float]:
        """Frame accuracies in percent."""
        return [100 * seed.accuracy for seed in self.seeds]

    def rates(self, kind: str) -> list[float]:
        """WERs in percent over the utterances of a kind."""
        return [seed.errors[kind].rate for seed in self.seeds]

    def counts(self, kind: str) -> tuple[float, float, float]:
        """Mean insertions, deletions and substitutions."""
        each = [seed.errors[kind] for seed in self.seeds]
        return fmean(e.insertions for e in each), fmean(e.deletions for e in each), fmean(e.substitutions for e in each)


class Segment(Facts):
    """A word from its first frame up to `after`."""

    word: str  # "" for silence
    first: Count
    after: Count


class Posteriors(Facts):
    """Probabilities of `Example.labels` over time, by one model."""

    role: str
    name: str
    values: list[list[float]]  # one row per label


class Example(Facts):
    """One utterance of the test split."""

    words: list[str]
    hop: float  # seconds per frame
    spectrogram: list[list[float]]  # one row per band, lowest first
    alignment: list[Segment]
    labels: list[str]  # words, "" for silence, and "..." for all other words
    posteriors: list[Posteriors]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        frames = {len(row) for row in (*self.spectrogram, *(row for model in self.posteriors for row in model.values))}
        if len(frames) != 1 or self.alignment[-1].after != next(iter(frames)):
            raise ValueError("spectrogram, alignment and posteriors need the same number of frames")
        if any(len(model.values) != len(self.labels) for model in self.posteriors):
            raise ValueError("posteriors need one row per label")
        return self


class SpeechFacts(Facts):
    """The speech part of a run's evaluation."""

    kinds: list[str]  # of utterances; the first is "all"
    rows: Annotated[list[SpeechRow], Field(min_length=1)]
    example: Example | None = None
    notes: list[str] = []

    def of(self, *roles: str) -> list[SpeechRow]:
        """The rows with one of these roles, in the order of `roles`."""
        return [row for role in roles for row in self.rows if row.role == role]
