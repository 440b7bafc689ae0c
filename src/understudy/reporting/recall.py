"""Recall by class, the worst classes first."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.evaluation.facts import Confusions
from understudy.reporting.wording import count

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Recall:
    """A class: its examples, and how many of them are classified correctly (means over seeds)."""

    name: str
    examples: float
    right: float
    alone: float | None = None  # by the student alone, where there is a distilled one

    @property
    def share(self) -> float:
        return self.right / self.examples

    @property
    def alone_share(self) -> float | None:
        return None if self.alone is None else self.alone / self.examples

    @property
    def counts(self) -> str:
        """As in `14 of 20`."""
        return f"{count(self.right)} of {count(self.examples)}"


def recalls(facts: Confusions) -> list[Recall]:
    """The classes with examples by rising recall; of equal ones, those with more examples first.

    >>> found = recalls(Confusions(classes=["cat", "dog"], model=[[9, 1], [3, 7]]))
    >>> [(one.name, one.share, one.counts) for one in found]
    [('dog', 0.7, '7 of 10'), ('cat', 0.9, '9 of 10')]
    """
    matrix = facts.distilled or facts.model or facts.alone or []
    alone = facts.alone if facts.distilled else None
    made = [
        Recall(name, sum(row), row[i], alone[i][i] if alone else None)
        for i, (name, row) in enumerate(zip(facts.classes, matrix, strict=False))
        if sum(row) > 0
    ]
    return sorted(made, key=lambda one: (one.share, -one.examples))


def worst(facts: Confusions) -> tuple[list[Recall], str]:
    """The classes that are shown, and how many others there are."""
    found = recalls(facts)
    rest = len(found) - _SHOWN
    return found[:_SHOWN], f"{rest:,} more with the same or a higher recall. " if rest > 0 else ""
