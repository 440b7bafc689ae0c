"""Facts of a compression: the teacher, the student and its exported files."""

from __future__ import annotations

import math
from typing import Literal

from understudy.evaluation.facts.base import Facts
from understudy.evaluation.facts.run import Role, Row, RunFacts

_Z = 1.96  # standard errors on each side of a 95% interval


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


class GivenFacts(Facts):
    """What a backbone was worth before anything was trained."""

    backbone: str
    accuracy: dict[str, float]  # on the test part, by route: "as given" (its own head), "linear probe", "k-NN"
    validation: dict[str, float] = {}  # the same on the validation part
    right: dict[str, str] = {}  # by route, which test examples are classified correctly, as `evaluation.outcomes`
    seconds: float = 0.0


class CandidateFacts(Facts):
    """One network that could be handed over, in one precision."""

    model: str
    role: Literal["student", "alone", "backbone"]  # distilled; trained alone; with its probe, or as fine-tuned
    size: int  # pixels of a side of the input
    precision: Literal["fp32", "int8"]
    latency_ms: float  # median for one image on one thread, in ONNX Runtime
    bytes: int  # of the ONNX file
    accuracy: float | None = None  # on the test part, where scored
    validation: float | None = None  # on the validation part, where it ran in the race
    rounds: int = 0  # of the race that it survived
    stands: bool = True  # within the limits asked for
    chosen: bool = False
    right: str = ""  # which test examples are classified correctly, as `evaluation.outcomes`


class ScalingForecast(Facts):
    """The expected error of a longer schedule, by a power law through the errors of a short and the full one.

    The law is bounded by the error of the teacher, and known no better than the slope between both schedules, whose
    errors are counts on `examples` images: where that leaves open whether more steps help at all, nothing is forecast.

    >>> forecast = ScalingForecast(
    ...     pilot_steps=100, steps=200, pilot_error=0.2, error=0.1, teacher_error=0.04, examples=10_000
    ... )
    >>> round(forecast.at(2), 6), forecast.at(4), forecast.known
    (0.05, 0.04, True)
    """

    pilot_steps: int
    steps: int
    pilot_error: float
    error: float
    teacher_error: float | None = None  # on the same images
    examples: int | None = None  # that the errors were measured on

    @property
    def known(self) -> bool:
        """Whether anything can be said: the student gains beyond the noise, and is still worse than its teacher."""
        if self.teacher_error is None or self.examples is None or self.error <= self.teacher_error:
            return False
        return self.pilot_steps < self.steps and self._slope - _Z * self._slope_error > 0

    def at(self, times: float) -> float:
        """The error expected of a schedule `times` as long as the full one, no lower than the teacher's."""
        return self._bounded(times, self._slope)

    def between(self, times: float) -> tuple[float, float]:
        """The lowest and the highest error that are compatible with both schedules' errors, at 95%."""
        spread = _Z * self._slope_error
        return self._bounded(times, self._slope + spread), self._bounded(times, self._slope - spread)

    def _bounded(self, times: float, slope: float) -> float:
        return max(self.error * times**-slope, self.teacher_error or 0.0)

    @property
    def _slope(self) -> float:
        """Of the logarithm of the error by that of the steps, negated; an error of none counts as half an example."""
        n = self.examples or 1
        pilot, full = (max(error, 0.5 / n) for error in (self.pilot_error, self.error))
        return math.log(pilot / full) / math.log(self.steps / self.pilot_steps)

    @property
    def _slope_error(self) -> float:
        """The standard error of the slope, as if both errors were of independent images, by the delta method."""
        n = self.examples or 1
        variance = sum((1 - e) / (n * max(e, 0.5 / n)) for e in (self.pilot_error, self.error))
        return math.sqrt(variance) / math.log(self.steps / self.pilot_steps)


class CompressionFacts(Facts):
    """A compression from teacher to files."""

    subject = "compression"

    name: str
    run: RunFacts  # the student's
    student: str = "student"  # the folder of `run`, relative to the page
    rows: list[Row]  # teacher, student trained alone (if it was), distilled student (if it was)
    given: list[GivenFacts] = []  # by backbone
    teacher_kept: str = ""  # which network teaches and why, in one sentence
    candidates: list[CandidateFacts] = []
    limits: dict[str, float] = {}  # asked for: "latency_ms", "bytes", "flops"; "slower" is how many times the device is
    latency_ms: dict[str, float]  # of "teacher" and "student" in PyTorch, for one image on one thread
    export: ExportFacts
    seconds: dict[str, float]  # by stage
    forecast: ScalingForecast | None = None
    notes: list[str] = []  # how the stages were planned
    command: list[str] = []

    def row(self, role: Role) -> Row | None:
        """The first row of a role."""
        return next((row for row in self.rows if row.role == role), None)

    @property
    def chosen(self) -> list[CandidateFacts]:
        """What is handed over, in each precision."""
        return [one for one in self.candidates if one.chosen]
