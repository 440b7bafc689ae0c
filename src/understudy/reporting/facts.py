"""What a report is made from: plain facts, read from a run's `evaluation.json` and checked once.

Only `name` and `kind` are required. A section of the page is there when its facts are, and a newer file may
hold keys that this version does not know.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import fmean, stdev
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from understudy.errors import UnderstudyError
from understudy.reporting.heard import SpeechFacts

Role = Literal["teacher", "member", "alone", "distilled", "model"]
"""A row's part: the teacher, a member of its ensemble, the student alone or distilled, or a lone model."""

Metric = Literal[
    "accuracy", "top5", "errors", "nll", "ece", "brier", "agreement", "correlation_difference", "cka", "train_ms"
]
Share = Annotated[float, Field(ge=0, le=1)]
Matrix = list[list[float]]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


F = TypeVar("F", bound=BaseModel)


def read_facts(schema: type[F], facts: Mapping[str, Any], complaint: str, remedy: str) -> F:
    """Check what `json.load` gave for a file against its schema; the first mistake is said in one sentence."""
    try:
        return schema.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UnderstudyError(f"{complaint}: {where}: {first['msg']}; {remedy}") from error


class Seed(_Facts):
    """What one trained network scored on the evaluation split."""

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
    train_ms: float | None = None  # one image, in training: the update of a student, the pass of a teacher


class Row(_Facts):
    """One model of the comparison: its scores by seed, and what it costs to use."""

    name: str
    role: Role
    model: str
    seeds: Annotated[list[Seed], Field(min_length=1)]
    parameters: int | None = None
    flops: int | None = None  # one image
    bytes: int | None = None  # the weights file
    latency_ms: float | None = None  # median, batch 1
    latency_spread_ms: float | None = None

    def values(self, metric: Metric) -> list[float]:
        """The metric of each seed that has it."""
        return [value for seed in self.seeds if (value := getattr(seed, metric)) is not None]

    def mean(self, metric: Metric) -> float | None:
        values = self.values(metric)
        return fmean(values) if values else None

    def sd(self, metric: Metric) -> float | None:
        """The sample standard deviation over seeds; None below two."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None

    @property
    def errors(self) -> float:
        """Mean errors over seeds; every seed has them."""
        return fmean(seed.errors for seed in self.seeds)


class Data(_Facts):
    """What was learnt from and what was evaluated on."""

    name: str
    split: str = "test"
    examples: Annotated[int, Field(gt=0)]  # in the evaluation split
    train_examples: int | None = None
    transfer_examples: int | None = None  # what the teacher was asked about
    classes: list[str] = []


class Curve(_Facts):
    """One seed's course of training. Each series is empty, or has one value (or null) an epoch."""

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


class Confusions(_Facts):
    """Confusion matrices, mean counts over seeds; rows are true classes, columns predicted ones."""

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


class CorrelationMap(_Facts):
    """Means over seeds, classes in order; of very many classes, blocks of neighbours."""

    name: str
    role: Role
    matrix: Matrix


class ClassPair(_Facts):
    """Two classes, and the correlation of their logits in each of the maps."""

    classes: tuple[str, str]
    values: list[float]


class Correlations(_Facts):
    """Correlations between the logits of classes, and by how much the students' differ from the teacher's."""

    classes: list[str]
    maps: Annotated[list[CorrelationMap], Field(min_length=1)]  # the teacher's is the first
    differences: list[CorrelationMap] = []
    pairs: list[ClassPair] = []

    @model_validator(mode="after")
    def _square(self) -> Self:
        for one in (*self.maps, *self.differences):
            if not one.matrix or any(len(row) != len(one.matrix) for row in one.matrix):
                raise ValueError("a map of correlations needs as many columns as rows")
        if any(len(pair.values) != len(self.maps) for pair in self.pairs):
            raise ValueError("a pair of classes needs one correlation for each map")
        return self


class Picture(_Facts):
    """One image and what each model says about it: probabilities a class, already at `temperature`."""

    image_png_base64: str
    label: int | str
    teacher: Annotated[list[float], Field(min_length=1)]
    alone: list[float] | None = None
    distilled: list[float] | None = None
    temperature: float = 1.0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.png.startswith(b"\x89PNG"):
            raise ValueError("image_png_base64 is not a PNG")
        for student in (self.alone, self.distilled):
            if student is not None and len(student) != len(self.teacher):
                raise ValueError("teacher and students need one probability for each class")
        return self

    @property
    def png(self) -> bytes:
        try:
            return base64.b64decode(self.image_png_base64, validate=True)
        except binascii.Error as error:
            raise ValueError("image_png_base64 is not base64") from error


class RunFacts(_Facts):
    """All that a page tells of one run."""

    name: str
    kind: str  # "train", "distill": the verb that made the run
    created: datetime | None = None
    duration_seconds: float | None = None
    hardware: str = ""
    command: list[str] = []  # the words of the command line, or one ready line
    versions: dict[str, str] = {}
    recipe_yaml: str = ""
    notes: list[str] = []
    cautions: list[str] = []
    data: Data | None = None
    rows: list[Row] = []
    curves: list[Curve] = []
    confusions: Confusions | None = None
    gallery: list[Picture] = []
    correlations: Correlations | None = None
    speech: SpeechFacts | None = None

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Read and check what `json.load` gave for an evaluation file."""
        return read_facts(cls, facts, "the evaluation cannot be reported", "evaluate the run again")

    def of(self, *roles: Role) -> list[Row]:
        """The rows with one of these roles, in the order the roles are named."""
        return [row for role in roles for row in self.rows if row.role == role]

    @property
    def teacher(self) -> Row | None:
        return next(iter(self.of("teacher")), None)

    def baseline(self, row: Row) -> Row | None:
        """The same student trained alone: the same model spec, nothing less."""
        return next((alone for alone in self.of("alone") if alone.model == row.model), None)

    @property
    def classes(self) -> Sequence[str]:
        if self.data and self.data.classes:
            return self.data.classes
        return self.confusions.classes if self.confusions else ()
