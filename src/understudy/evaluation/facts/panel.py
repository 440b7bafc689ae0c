"""Facts of a panel of specialists."""

from __future__ import annotations

from datetime import datetime

from understudy.evaluation.facts.base import Facts, Matrix, Share


class PanelRow(Facts):
    """The generalist, the panel or a student: its scores on the test split, and its inference cost."""

    name: str
    model: str = ""
    accuracy: Share
    errors: int
    conditional: float  # accuracy given the group; NaN if no example belongs to a group
    nll: float
    ece: float
    parameters: int | None = None
    flops: float | None = None  # per image
    latency_ms: float | None = None
    latency_spread_ms: float | None = None


class Coverage(Facts):
    """The test examples whose class is covered by this many specialists, and how many are classified correctly."""

    specialists: int
    examples: int
    generalist: int
    panel: int
    delta: int
    change: float | None = None  # of the accuracy, relative


class ClassGroup(Facts):
    """A specialist's classes, and how many of their test examples are classified correctly among them."""

    classes: list[str]
    examples: int
    generalist: int
    panel: int
    asked: int  # test examples that were routed to the specialist
    held: Share  # of the expected confusion on the training split


class PanelFacts(Facts):
    """All that is reported of a panel."""

    subject = "panel"

    name: str
    data: str
    examples: int
    fixed: int  # test examples that only the panel classifies correctly
    regressed: int  # test examples that only the generalist classifies correctly
    created: datetime | None = None
    hardware: str = ""
    command: list[str] = []
    rows: list[PanelRow]
    cover: list[Coverage]
    groups: list[ClassGroup]
    asked: float  # specialists per example, mean
    steps: int  # of the optimization that fuses the predictions, maximum
    top_n: int
    classes: list[str]  # in the order of the covariance
    covariance: Matrix
    notes: list[str] = []

    def row(self, name: str) -> PanelRow:
        """The row of this name, which must exist."""
        return {row.name: row for row in reversed(self.rows)}[name]
