"""Several methods beside one reference: errors paired by seed, tested, and adjusted for how many are tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from understudy.reporting.facts import Row, RunFacts
from understudy.reporting.gain import Gain, pair, t_test

Verdict = Literal["better", "worse", "unclear", "untested"]

PLAIN = ("kd", "soft")  # plain distillation goes by either name
FEWEST = 3  # seeds; of two differences a t test can see next to nothing
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Contrast:
    """One row's errors less the reference's.

    Attributes:
        paired: the two rows, seed by seed, the reference in the place of the student alone.
        p: of the paired t test; None where none can be made.
        adjusted: p by Holm's method over all the tests beside the same reference.
    """

    row: Row
    paired: Gain
    p: float | None
    adjusted: float | None

    @property
    def differences(self) -> tuple[int, ...]:
        """Seed by seed; negative where the row makes fewer errors."""
        return tuple(-removed for removed in self.paired.removed)

    @property
    def mean(self) -> float:
        return -self.paired.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% paired t interval of the mean, of this row by itself; None where there is no test."""
        if self.p is None or self.paired.interval is None:
            return None
        low, high = self.paired.interval
        return -high, -low

    @property
    def constant(self) -> bool:
        """Whether every seed differs by the same number, which leaves no spread to test against."""
        return len(self.differences) >= FEWEST and self.p is None

    @property
    def verdict(self) -> Verdict:
        if self.adjusted is None:
            return "untested"
        if self.adjusted > LEVEL:
            return "unclear"
        return "better" if self.mean < 0 else "worse"


def is_comparison(facts: RunFacts) -> bool:
    return len(facts.of("distilled")) > 1


def reference(facts: RunFacts) -> Row | None:
    """Plain distillation where it is among the methods, else the student alone, else none."""
    methods = facts.of("distilled")
    plain = next((row for row in methods if row.name in PLAIN), None)
    return plain or (facts.baseline(methods[0]) if methods else None)


def title(row: Row) -> str:
    """What a sentence calls a row."""
    return "the student alone" if row.role == "alone" else f"plain {row.name}" if row.name in PLAIN else row.name


def contrasts(facts: RunFacts) -> list[Contrast]:
    """The student alone and every method, in their order, each beside the reference; only the same student is fair."""
    of = reference(facts)
    if of is None:
        return []
    rows = [row for row in facts.of("alone", "distilled") if row is not of and row.model == of.model]
    pairs = [pair(of, row) for row in rows]
    tests = [t_test(one.removed) if len(one.seeds) >= FEWEST else None for one in pairs]
    adjusted = iter(holm([p for p in tests if p is not None]))
    return [
        Contrast(row, one, p, None if p is None else next(adjusted))
        for row, one, p in zip(rows, pairs, tests, strict=True)
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """p values by Holm's step-down method: none of their errors more likely than the level, all taken together."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted
