"""Facts of a run: its models' scores and costs, training curves, confusions and example images."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import fmean, stdev
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from understudy.evaluation.facts.base import Facts, Matrix, Share
from understudy.evaluation.facts.representation import RepresentationFacts
from understudy.evaluation.facts.speech import SpeechFacts

Role = Literal["teacher", "member", "alone", "distilled", "model"]
"""The teacher, a member of its ensemble, the student trained alone or distilled, or a single model."""

Metric = Literal[
    "accuracy", "top5", "errors", "nll", "ece", "brier", "agreement", "correlation_difference", "cka", "train_ms"
]


class Seed(Facts):
    """The scores of one trained network on the evaluation split."""

    seed: int
    accuracy: Share
    errors: Annotated[int, Field(ge=0)]
    nll: float | None = None
    ece: float | None = None
    brier: float | None = None
    agreement: Share | None = None
    correlation_difference: float | None = None
    cka: Share | None = None
    top5: Share | None = None
    train_ms: float | None = None  # per image in training: a student's update, the teacher's forward pass
    right: str = ""  # which examples are classified correctly, in the order of the split, as `evaluation.outcomes`


class Row(Facts):
    """One model of a comparison: its scores per seed, and its inference cost.

    >>> seeds = [Seed(seed=0, accuracy=0.9, errors=10), Seed(seed=1, accuracy=0.8, errors=20)]
    >>> row = Row(name="kd", role="distilled", model="mlp:32x1", seeds=seeds)
    >>> row.mean("errors"), round(row.sd("errors"), 2), row.mean("nll")
    (15.0, 7.07, None)
    """

    name: str
    role: Role
    model: str
    seeds: Annotated[list[Seed], Field(min_length=1)]
    parameters: int | None = None
    flops: int | None = None  # per image
    bytes: int | None = None  # of the weights file
    latency_ms: float | None = None  # median at batch size 1
    latency_spread_ms: float | None = None

    def values(self, metric: Metric) -> list[float]:
        """The metric of every seed for which it was measured."""
        return [value for seed in self.seeds if (value := getattr(seed, metric)) is not None]

    def mean(self, metric: Metric) -> float | None:
        values = self.values(metric)
        return fmean(values) if values else None

    def sd(self, metric: Metric) -> float | None:
        """The sample standard deviation over seeds; None for fewer than two."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None

    @property
    def errors(self) -> float:
        """The mean over seeds."""
        return fmean(seed.errors for seed in self.seeds)


class Data(Facts):
    """The training and evaluation data."""

    name: str
    split: str = "test"
    examples: Annotated[int, Field(gt=0)]  # in the evaluation split
    train_examples: int | None = None
    transfer_examples: int | None = None  # that were distilled on
    classes: list[str] = []


class Curve(Facts):
    """One seed's training curve. Each series is empty or has one value (or None) per epoch."""

    name: str
    role: Role
    seed: int
    epoch: list[float]
    loss: list[float | None] = []
    accuracy: list[float | None] = []
    agreement: list[float | None] = []

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        for series in (self.loss, self.accuracy, self.agreement):
            if len(series) not in (0, len(self.epoch)):
                raise ValueError("a series needs one value, or null, for each epoch")
        return self


class Confusions(Facts):
    """Confusion matrices of mean counts over seeds; rows are true classes, columns predicted classes."""

    classes: list[str]
    alone: Matrix | None = None
    distilled: Matrix | None = None
    model: Matrix | None = None

    @model_validator(mode="after")
    def _square(self) -> Self:
        size = len(self.classes)
        for matrix in (self.alone, self.distilled, self.model):
            if matrix is not None and [len(row) for row in matrix] != [size] * size:
                raise ValueError(f"a confusion matrix of {size} classes needs {size} rows of {size}")
        return self


class CorrelationMap(Facts):
    """Means over seeds, with the classes in order; many classes are averaged in blocks of neighbors."""

    name: str
    role: Role
    matrix: Matrix


class ClassPair(Facts):
    """Two classes, and the correlation of their logits in each map."""

    classes: tuple[str, str]
    values: list[float]


class Correlations(Facts):
    """Correlations between the logits of classes, and their distance from the teacher's."""

    classes: list[str]
    maps: Annotated[list[CorrelationMap], Field(min_length=1)]  # the teacher's first
    differences: list[CorrelationMap] = []
    pairs: list[ClassPair] = []

    @model_validator(mode="after")
    def _square(self) -> Self:
        for map in (*self.maps, *self.differences):
            if not map.matrix or any(len(row) != len(map.matrix) for row in map.matrix):
                raise ValueError("a map of correlations needs as many columns as rows")
        if any(len(pair.values) != len(self.maps) for pair in self.pairs):
            raise ValueError("a pair of classes needs one correlation for each map")
        return self


class Picture(Facts):
    """An image, and the probabilities that each model assigns to the classes at `temperature`."""

    image: str  # path of a PNG file, relative to the folder of evaluation.json
    label: int | str
    teacher: Annotated[list[float], Field(min_length=1)]
    alone: list[float] | None = None
    distilled: list[float] | None = None
    temperature: float = 1.0

    @model_validator(mode="after")
    def _same_classes(self) -> Self:
        for student in (self.alone, self.distilled):
            if student is not None and len(student) != len(self.teacher):
                raise ValueError("teacher and students need one probability per class")
        return self


class Mistake(Facts):
    """A misclassified image, and how sure the network is of it."""

    image: str  # path of a PNG file, relative to the folder of evaluation.json
    sample: str = ""  # the file's name in the data, where it has one
    label: str
    predicted: str
    confidence: Share  # probability of the predicted class
    of_label: Share  # probability of the true one
    teacher: str | None = None  # the class that the teacher predicts


class Confidence(Facts):
    """What a threshold on the confidence buys, of one network, as `evaluation.confidence.coverage_curve`."""

    name: str
    role: Role
    seed: int
    threshold: Annotated[list[Share], Field(min_length=1)]  # falling
    coverage: list[Share]  # rising
    accuracy: list[Share]
    routed: list[Share] = []  # if the teacher answers the other examples

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        for series in (self.coverage, self.accuracy, self.routed or self.threshold):
            if len(series) != len(self.threshold):
                raise ValueError("a series needs one value for each threshold")
        return self


class RunFacts(Facts):
    """All that is reported of a run.

    >>> facts = RunFacts.from_json({"name": "demo", "kind": "train", "a key of a newer version": 1})
    >>> facts.name, facts.rows, facts.teacher
    ('demo', [], None)
    """

    name: str
    kind: str  # the verb that made the run, as in "train"
    created: datetime | None = None
    duration_seconds: float | None = None
    hardware: str = ""
    command: list[str] = []  # arguments, or a single item that is shown as it is
    versions: dict[str, str] = {}
    recipe_yaml: str = ""
    notes: list[str] = []
    cautions: list[str] = []
    data: Data | None = None
    rows: list[Row] = []
    curves: list[Curve] = []
    confusions: Confusions | None = None
    gallery: list[Picture] = []
    confidence: Confidence | None = None  # of the first seed of the distilled student, or of a single model
    mistakes: list[Mistake] = []  # of the same network
    correlations: Correlations | None = None
    speech: SpeechFacts | None = None
    representation: RepresentationFacts | None = None  # of students that learned no classes

    def of(self, *roles: Role) -> list[Row]:
        """The rows with one of these roles, in the order of `roles`."""
        return [row for role in roles for row in self.rows if row.role == role]

    @property
    def teacher(self) -> Row | None:
        return next(iter(self.of("teacher")), None)

    def baseline(self, row: Row) -> Row | None:
        """The student trained alone with the same model spec as `row`."""
        return next((alone for alone in self.of("alone") if alone.model == row.model), None)

    @property
    def classes(self) -> Sequence[str]:
        if self.data and self.data.classes:
            return self.data.classes
        return self.confusions.classes if self.confusions else ()
