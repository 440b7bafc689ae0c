"""Significance tests. No claim is made about seeds from fewer than `MIN_SEEDS`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_SEEDS = 3  # a t test on two differences has next to no power
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A two-sided paired t test: p, and the 95% interval of the mean difference."""

    p: float
    interval: tuple[float, float]


def paired_t(first: Sequence[float], second: Sequence[float]) -> PairedTest | None:
    """Test whether the mean of `first - second` is zero; None for fewer than `MIN_SEEDS` pairs or without variance.

    >>> test = paired_t([146, 139, 151], [74, 80, 79])
    >>> round(test.p, 4), [round(bound) for bound in test.interval]
    (0.0041, [49, 86])
    >>> paired_t([146, 139], [74, 80]) is None
    True
    """
    differences = {a - b for a, b in zip(first, second, strict=True)}
    if len(first) < MIN_SEEDS or len(differences) < 2:
        return None
    from scipy.stats import ttest_rel

    found = ttest_rel(first, second)
    low, high = found.confidence_interval(1 - LEVEL)
    return PairedTest(float(found.pvalue), (float(low), float(high)))


def mcnemar(fixed: int, regressed: int) -> float:
    """p of the exact McNemar test, from the numbers of examples that only one of two models classifies correctly.

    >>> mcnemar(6, 0)
    0.03125
    """
    if not fixed + regressed:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(fixed, fixed + regressed).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """p values adjusted by Holm's step-down method, which controls the family-wise error rate (Holm 1979).

    >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted
