"""What distillation gained: errors with and without it, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Literal

from understudy.reporting.facts import Row, RunFacts

Verdict = Literal["gain", "loss", "unclear", "unproven"]


@dataclass(frozen=True, slots=True)
class Gain:
    """A distilled student beside the same student trained alone, over the seeds that both have.

    Attributes:
        seeds: the seeds in common; without any, the means are over each row's own and nothing is paired.
        alone: errors for each of `seeds`.
        distilled: errors for each of `seeds`.
        alone_errors: mean errors of the student alone.
        distilled_errors: mean errors of the distilled student.
        teacher_errors: mean errors of the teacher, where there is one.
    """

    seeds: tuple[int, ...]
    alone: tuple[int, ...]
    distilled: tuple[int, ...]
    alone_errors: float
    distilled_errors: float
    teacher_errors: float | None

    @property
    def removed(self) -> tuple[int, ...]:
        """Errors that distillation removed, seed by seed; negative where it added some."""
        return tuple(a - d for a, d in zip(self.alone, self.distilled, strict=True))

    @property
    def mean(self) -> float:
        return self.alone_errors - self.distilled_errors

    @property
    def sd(self) -> float | None:
        return stdev(self.removed) if len(self.seeds) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% paired t interval of the errors removed; None where no seed differs from another."""
        return t_interval(self.removed)

    @property
    def verdict(self) -> Verdict:
        if self.interval is None:
            return "unproven"
        low, high = self.interval
        return "gain" if low > 0 else "loss" if high < 0 else "unclear"

    @property
    def gap(self) -> float | None:
        """The errors that the student alone makes beyond its teacher's, if it makes more."""
        if self.teacher_errors is None or self.alone_errors <= self.teacher_errors:
            return None
        return self.alone_errors - self.teacher_errors

    @property
    def gap_closed(self) -> float | None:
        """The share of the gap that distillation closed: above 1 beyond the teacher, below 0 for harm."""
        return None if self.gap is None else self.mean / self.gap


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of a mean. None below two values, or where all are equal and it has no width."""
    if len(set(values)) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def t_test(values: Sequence[float]) -> float | None:
    """p of Student's two-sided test that a mean is zero. None where there is no interval either."""
    if len(set(values)) < 2:
        return None
    from scipy.stats import t

    return 2 * float(t.sf(abs(fmean(values)) * sqrt(len(values)) / stdev(values), len(values) - 1))


def gain(facts: RunFacts, row: Row) -> Gain | None:
    """What `row`, a distilled student, gained; None where the same student was not trained alone."""
    baseline = facts.baseline(row)
    return None if baseline is None else pair(baseline, row, facts.teacher)


def pair(baseline: Row, row: Row, teacher: Row | None = None) -> Gain:
    """`row` beside any other row that stands where the student alone does: paired by the seeds of both."""
    alone = {seed.seed: seed.errors for seed in baseline.seeds}
    distilled = {seed.seed: seed.errors for seed in row.seeds}
    common = tuple(sorted(alone.keys() & distilled.keys()))
    return Gain(
        seeds=common,
        alone=tuple(alone[seed] for seed in common),
        distilled=tuple(distilled[seed] for seed in common),
        alone_errors=fmean(alone[seed] for seed in common) if common else baseline.errors,
        distilled_errors=fmean(distilled[seed] for seed in common) if common else row.errors,
        teacher_errors=teacher.errors if teacher else None,
    )
