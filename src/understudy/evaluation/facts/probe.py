"""Facts of linear probes: what networks' frozen representations are worth on data sets."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any, TypeVar

from understudy.evaluation.facts.base import Facts

T = TypeVar("T")


class Probe(Facts):
    """The result of a linear probe."""

    accuracy: float  # on the test set
    errors: int
    validation_accuracy: float  # on the held-out training samples, with the selected weight decay
    weight_decay: float  # the selected one; see `fit_logistic`
    width: int  # D, the dimension of the representation


class ProbedSet(Facts):
    """The linear probes of several networks on one data set."""

    data: str
    classes: int
    train: int  # number of samples
    test: int
    probes: dict[str, Probe]  # by network, as "alone-0" or "distilled-crd-0"
    skipped: dict[str, int] = {}  # reason -> number of records that could not be read
    neighbors: dict[str, float] = {}  # accuracy of nearest neighbors, by network, if asked for

    @property
    def groups(self) -> dict[str, list[Probe]]:
        """The seeds of each kind of network, as "alone" or "distilled-crd"."""
        return grouped(self.probes)

    def mean(self, group: str) -> float:
        """Mean accuracy over seeds."""
        return fmean(probe.accuracy for probe in self.groups[group])

    def sd(self, group: str) -> float | None:
        """Sample standard deviation of the accuracy over seeds; None below two."""
        values = [probe.accuracy for probe in self.groups[group]]
        return stdev(values) if len(values) > 1 else None

    def to_json(self) -> dict[str, Any]:
        means = {group: {"accuracy": self.mean(group), "sd": self.sd(group)} for group in self.groups}
        return self.model_dump() | {"means": means}


class ProbeFacts(Facts):
    """The linear probes of the same networks on several data sets."""

    subject = "probe"

    name: str
    hardware: str = ""
    command: list[str] = []
    versions: dict[str, str] = {}
    results: list[ProbedSet]


def grouped(by_network: Mapping[str, T]) -> dict[str, list[T]]:
    """What there is of each network by its kind: "distilled-0" and "distilled-1" are seeds of "distilled"."""
    found: dict[str, list[T]] = {}
    for name, value in by_network.items():
        head, _, number = name.rpartition("-")
        found.setdefault(head if number.isdecimal() else name, []).append(value)
    return found
