"""Several methods compared with one reference: errors paired by seed, tested, and adjusted for multiple comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from understudy.evaluation.facts import Row, RunFacts
from understudy.reporting.gain import Gain, pair
from understudy.reporting.significance import LEVEL, MIN_SEEDS, holm

Verdict = Literal["better", "worse", "unclear", "untested"]

PLAIN = "kd"


@dataclass(frozen=True, slots=True)
class Contrast:
    """The errors of a row minus those of the reference."""

    row: Row  # the student alone, or a method
    paired: Gain  # both rows, seed by seed, with the reference as the student alone
    adjusted: float | None  # p by Holm's method over all comparisons with the reference; None if untested

    @property
    def p(self) -> float | None:
        """p of the paired t test before adjustment; None if untested."""
        return self.paired.test.p if self.paired.test else None

    @property
    def differences(self) -> tuple[int, ...]:
        """Per seed; negative if the row makes fewer errors."""
        return tuple(-removed for removed in self.paired.removed)

    @property
    def mean(self) -> float:
        return -self.paired.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the mean of this row alone, not adjusted; None if untested."""
        if self.paired.interval is None:
            return None
        low, high = self.paired.interval
        return -high, -low

    @property
    def constant(self) -> bool:
        """Whether all seeds differ by the same number, so that there is no variance to test against."""
        return len(self.differences) >= MIN_SEEDS and self.adjusted is None

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
    """Plain distillation if it is among the methods, else the student alone, else None."""
    methods = facts.of("distilled")
    plain = next((row for row in methods if row.name == PLAIN), None)
    return plain or (facts.baseline(methods[0]) if methods else None)


def title(row: Row) -> str:
    """The name of a row in a sentence."""
    return "the student alone" if row.role == "alone" else f"plain {PLAIN}" if row.name == PLAIN else row.name


def contrasts(facts: RunFacts) -> list[Contrast]:
    """The student alone and all methods compared with the reference; other student models are left out."""
    of = reference(facts)
    if of is None:
        return []
    rows = [row for row in facts.of("alone", "distilled") if row is not of and row.model == of.model]
    pairs = [pair(of, row) for row in rows]
    adjusted = iter(holm([one.test.p for one in pairs if one.test]))
    return [Contrast(row, one, next(adjusted) if one.test else None) for row, one in zip(rows, pairs, strict=True)]
