"""Lists of the largest confusions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from understudy.evaluation.facts import Confusions, Matrix
from understudy.reporting import wording

_TOP = 10


@dataclass(frozen=True, slots=True)
class Confusion:
    true: str
    predicted: str
    before: float | None  # by the student alone; None for a single model
    after: float
    width_before: float  # in percent of the longest bar of the list
    width_after: float

    @property
    def change(self) -> float:
        return self.after - (self.before or 0)


@dataclass(frozen=True, slots=True)
class ConfusionList:
    title: str
    total: str
    items: list[Confusion]
    fixed: bool  # whether all counts are shown with a decimal, as some mean is not whole


def confusion_lists(facts: Confusions) -> list[ConfusionList]:
    """The confusions that distillation removed, and those that it added; of a single model the most frequent ones."""
    lists = []
    if facts.alone is not None and facts.distilled is not None:
        pairs = [(i, j, facts.alone[i][j], facts.distilled[i][j]) for i, j in _off_diagonal(facts.alone)]
        removed = sorted((pair for pair in pairs if pair[2] > pair[3]), key=lambda pair: pair[3] - pair[2])
        added = sorted((pair for pair in pairs if pair[3] > pair[2]), key=lambda pair: pair[2] - pair[3])
        for title, changed in (("Removed", removed), ("Added", added)):
            total = sum(abs(after - before) for _, _, before, after in changed)
            text = f"{wording.plural(total, 'error')} over {wording.plural(len(changed), 'pair')} of classes"
            lists.append(_confusion_list(title, text, facts.classes, changed))
    elif matrix := facts.distilled or facts.model or facts.alone:
        single = sorted(((i, j, None, matrix[i][j]) for i, j in _off_diagonal(matrix)), key=lambda pair: -pair[3])
        lists.append(_confusion_list("Most frequent", "", facts.classes, single))
    return [one for one in lists if one.items]


def _off_diagonal(matrix: Matrix) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(matrix)) for j in range(len(matrix)) if i != j]


def _confusion_list(
    title: str, total: str, classes: list[str], pairs: Iterable[tuple[int, int, float | None, float]]
) -> ConfusionList:
    top = [pair for pair in pairs if pair[3] or pair[2]][:_TOP]
    longest = max((max(before or 0, after) for _, _, before, after in top), default=1)
    items = [
        Confusion(classes[i], classes[j], before, after, 100 * (before or 0) / longest, 100 * after / longest)
        for i, j, before, after in top
    ]
    fixed = any(not value.is_integer() for _, _, *values in top for value in values if value is not None)
    return ConfusionList(title, total, items, fixed)
