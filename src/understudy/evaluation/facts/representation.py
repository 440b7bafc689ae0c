"""Facts of a representation that was distilled: the teacher's, the student's at the start, and the distilled ones."""

from __future__ import annotations

from typing import Literal

from understudy.evaluation.facts.base import Facts, Matrix, Share


class Space(Facts):
    """One network's representation of the compared samples, and its cost."""

    name: str  # "teacher", "start", or as the model's file, "distilled-0"
    role: Literal["teacher", "start", "distilled"]
    model: str
    width: int
    rank: float  # effective rank
    knn: Share | None = None  # accuracies, where there are labels
    probe: Share | None = None
    neighbors: Share | None = None  # that it has in common with the teacher
    cka: Share | None = None  # with the teacher
    knn_gap: float | None = None  # shares of the way from the start to the teacher
    probe_gap: float | None = None
    neighbors_gap: float | None = None
    parameters: int | None = None
    flops: int | None = None
    latency_ms: float | None = None
    map: Matrix = []  # of the first samples, by the projection


class Nearest(Facts):
    """A sample and its nearest ones in each space, nearest first; images are paths of PNG files."""

    image: str
    label: str = ""
    images: dict[str, list[str]]
    same: dict[str, list[bool]] = {}  # whether each is of the sample's class


class RepresentationFacts(Facts):
    """What was compared, and how.

    >>> RepresentationFacts(data="photos", split="held-out", queries=100, keys=0, spaces=[]).headline is None
    True
    """

    data: str
    split: str  # "test" or "held-out"
    queries: int
    keys: int  # training samples among which neighbors are looked for; 0: the other queries
    labels: list[int] = []  # of the samples on the maps
    projection: Literal["PCA", "UMAP"] = "PCA"
    spaces: list[Space] = []
    nearest: list[Nearest] = []

    def of(self, role: str) -> list[Space]:
        """The spaces of one role."""
        return [space for space in self.spaces if space.role == role]

    @property
    def headline(self) -> Literal["knn", "neighbors"] | None:
        """The measure that the gap is named by: the accuracy where there are labels."""
        first = next(iter(self.of("distilled")), None)
        return None if first is None else "neighbors" if first.knn is None else "knn"
