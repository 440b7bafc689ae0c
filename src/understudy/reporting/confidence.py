"""What a threshold on the confidence buys: its figure and its table."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.evaluation.facts import Confidence
from understudy.reporting.figures import COLORS, Panel, few_ticks, panel
from understudy.reporting.wording import percent

_COVERAGES = (0.8, 0.9, 0.95, 1.0)
_TARGETS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_LEAST = 0.2  # coverage that is worth a sentence


@dataclass(frozen=True, slots=True)
class Threshold:
    """Answering the examples whose confidence is at least `threshold`."""

    coverage: float
    threshold: float
    accuracy: float  # on those that are answered
    routed: float | None  # on all, if the teacher answers the others


def thresholds(facts: Confidence) -> list[Threshold]:
    """The highest thresholds that answer at least 80%, 90%, 95% and all of the examples."""
    found: list[Threshold] = []
    for least in _COVERAGES:
        at = next((i for i, coverage in enumerate(facts.coverage) if coverage >= least - 1e-9), None)
        if at is not None and (one := _at(facts, at)) not in found:
            found.append(one)
    return found


def trade(facts: Confidence) -> str:
    """How many answers are to be left out to have half the errors, in a sentence; "" if no threshold does that.

    >>> curve = Confidence(name="kd", role="distilled", seed=0, threshold=[0.9, 0.5, 0.2], coverage=[0.5, 0.8, 1.0],
    ...                    accuracy=[0.99, 0.96, 0.86])
    >>> trade(curve)
    'To be right in 95% of the answers, answer the 80% of images with a confidence of at least 50.0%.'
    """
    allowed = (1 - facts.accuracy[-1]) / 2
    target = next((target for target in _TARGETS if 1 - target <= allowed), None)
    reached = [i for i, accuracy in enumerate(facts.accuracy) if target is not None and accuracy >= target]
    if target is None or not reached or facts.coverage[reached[-1]] < _LEAST:
        return ""
    one = _at(facts, reached[-1])
    return (
        f"To be right in {percent(target, 0 if target < 0.995 else 1)} of the answers, answer the "
        f"{percent(one.coverage)} of images with a confidence of at least {percent(one.threshold, 1)}."
    )


def _at(facts: Confidence, i: int) -> Threshold:
    return Threshold(
        facts.coverage[i], facts.threshold[i], facts.accuracy[i], facts.routed[i] if facts.routed else None
    )


def picture(facts: Confidence) -> Panel:
    """Accuracy against coverage, and of all examples if the teacher answers the others."""
    with panel("confidence", "Accuracy on the examples that are answered, by their share", 2.9) as (ax, svg):
        x = [100 * coverage for coverage in facts.coverage]
        if facts.routed:
            ax.plot(x, [100 * y for y in facts.routed], color=COLORS["teacher"], linewidth=1.6, linestyle=(0, (4, 3)))
        ax.plot(x, [100 * y for y in facts.accuracy], color=COLORS[facts.role], linewidth=2)
        ax.set_xlabel("answered, %")
        few_ticks(ax.xaxis)
        few_ticks(ax.yaxis)
    return Panel("Accuracy, %", svg())
