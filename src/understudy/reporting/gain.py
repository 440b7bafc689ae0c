"""The gain of distillation: errors with and without it, paired by seed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from understudy.evaluation.facts import Row, RunFacts
from understudy.reporting.significance import LEVEL, PairedTest, paired_t

Verdict = Literal["gain", "loss", "unclear", "untested"]


@dataclass(frozen=True, slots=True)
class Gain:
    """Errors of a distilled student and of the same student trained alone, over the seeds that both have.

    If there are no common seeds, the means are over each row's own seeds and nothing is paired.

    >>> gain = Gain((0, 1, 2), (146, 139, 151), (74, 80, 79), 145.3, 77.7, 67.0)
    >>> gain.removed, gain.verdict, round(gain.gap_closed, 2)
    ((72, 59, 72), 'gain', 0.86)
    """

    seeds: tuple[int, ...]
    alone: tuple[int, ...]  # for each of `seeds`
    distilled: tuple[int, ...]
    alone_errors: float  # mean
    distilled_errors: float
    teacher_errors: float | None

    @property
    def removed(self) -> tuple[int, ...]:
        """Errors removed by distillation, per seed; negative if errors were added."""
        return tuple(a - d for a, d in zip(self.alone, self.distilled, strict=True))

    @property
    def mean(self) -> float:
        return self.alone_errors - self.distilled_errors

    @property
    def sd(self) -> float | None:
        return stdev(self.removed) if len(self.seeds) > 1 else None

    @property
    def test(self) -> PairedTest | None:
        """The paired t test over seeds; None if there are too few, or no variance."""
        return paired_t(self.alone, self.distilled)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the mean of `removed`."""
        return self.test.interval if self.test else None

    @property
    def verdict(self) -> Verdict:
        if self.test is None:
            return "untested"
        return "unclear" if self.test.p > LEVEL else "gain" if self.mean > 0 else "loss"

    @property
    def gap_closed(self) -> float | None:
        """The share of the gap to the teacher closed by distillation, negative for a loss; None if there is no gap."""
        if self.teacher_errors is None or self.alone_errors <= self.teacher_errors:
            return None
        return self.mean / (self.alone_errors - self.teacher_errors)


def gain(facts: RunFacts, row: Row) -> Gain | None:
    """The gain of a distilled student; None if the same student was not trained alone."""
    baseline = facts.baseline(row)
    return None if baseline is None else pair(baseline, row, facts.teacher)


def pair(baseline: Row, row: Row, teacher: Row | None = None) -> Gain:
    """`row` compared with a baseline, paired by the seeds of both."""
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
