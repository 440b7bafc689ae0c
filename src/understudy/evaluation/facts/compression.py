"""Facts of a compression: the teacher, the student and its exported files."""

from __future__ import annotations

import math

from understudy.evaluation.facts.base import Facts
from understudy.evaluation.facts.run import Row, RunFacts


class OriginalFacts(Facts):
    """The network that was exported, in PyTorch."""

    bytes: int  # of the weights file
    accuracy: float | None  # on the test split; None without labels
    latency_ms: float  # median for one sample on one thread
    latency_p90_ms: float | None = None


class FileFacts(OriginalFacts):
    """An exported file, compared with the network on the test split."""

    file: str
    format: str = ""
    agreement: float  # share of samples with the same predicted class
    worst_difference: float  # largest absolute difference of a logit


class ExportFacts(Facts):
    """The exported files, in `folder` beside the page."""

    folder: str
    original: OriginalFacts
    files: list[FileFacts]
    page: str | None = None  # the page that classifies images in the browser


class ScalingForecast(Facts):
    """The expected error of a longer schedule, by a power law through the test errors of a short and the full one.

    >>> forecast = ScalingForecast(pilot_steps=100, steps=200, pilot_error=0.2, error=0.1)
    >>> round(forecast.at(2), 6)
    0.05
    """

    pilot_steps: int
    steps: int
    pilot_error: float
    error: float

    @property
    def improves(self) -> bool:
        """Whether the longer schedule had the lower error."""
        return self.pilot_steps < self.steps and self.error < self.pilot_error

    def at(self, times: float) -> float:
        """The error expected of a schedule `times` as long as the full one."""
        if not self.improves or self.error <= 0:
            return self.error
        slope = math.log(self.pilot_error / self.error) / math.log(self.steps / self.pilot_steps)
        return self.error * times**-slope


class CompressionFacts(Facts):
    """A compression from teacher to files."""

    subject = "compression"

    name: str
    run: RunFacts  # the student's
    rows: list[Row]  # teacher, student trained alone (if it was), distilled student
    latency_ms: dict[str, float]  # of "teacher" and "student" in PyTorch, for one image on one thread
    export: ExportFacts
    seconds: dict[str, float]  # training time by stage
    answer_seconds: float = 0.0  # of the teachers, to all views
    forecast: ScalingForecast | None = None
    notes: list[str] = []  # how the stages were planned
    command: list[str] = []
