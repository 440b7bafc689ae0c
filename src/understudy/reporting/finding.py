"""The headline of any results, and the accuracy that stands for them in a list."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from understudy.evaluation.facts import CompressionFacts, Facts, FewShotFacts, PanelFacts, RunFacts, SuiteFacts
from understudy.reporting import panel
from understudy.reporting.headline import headline
from understudy.reporting.verdict import verdict
from understudy.reporting.wording import Headline, percent, plural


def finding(facts: Facts) -> Headline:
    """The headline of the page of some facts."""
    return _FINDINGS[type(facts)](facts)


def accuracy(facts: Facts) -> float | None:
    """Of what the run made, on the test part: the first student, the panel, or the mean over tasks; None without."""
    return _ACCURACIES[type(facts)](facts)


def _of_run(facts: RunFacts) -> float | None:
    rows = facts.of("distilled", "model", "alone", "teacher", "member")
    return rows[0].mean("accuracy") if rows else None


def _of_compression(facts: CompressionFacts) -> float | None:
    row = facts.row("distilled") or facts.row("alone") or facts.row("teacher")
    return row.mean("accuracy") if row else None


def _of_shots(facts: FewShotFacts) -> float | None:
    return facts.results[-1].median if facts.results else None


def _of_suite(facts: SuiteFacts) -> float | None:
    found = [task.results[-1].median for task in facts.tasks if task.results]
    return fmean(known) if (known := [one for one in found if one is not None]) else None


def _of_panel(facts: PanelFacts) -> float | None:
    return facts.row("panel").accuracy


def _few_shots(facts: FewShotFacts) -> Headline:
    each = ", ".join(
        f"{percent(one.median, 1)} with {plural(one.shots, 'example')}"
        for one in facts.results
        if one.median is not None
    )
    return Headline("plain", "Measured", f"{facts.backbone}: {each} per class." if each else "Nothing was scored.")


def _suite(facts: SuiteFacts) -> Headline:
    done, mean = [task for task in facts.tasks if task.results], _of_suite(facts)
    if mean is None:
        return Headline("open", "Not finished", "No task has a result yet.")
    sentence = f"{facts.backbone}: {percent(mean, 1)} on average over {plural(len(done), 'task')}."
    if failed := len(facts.failed):
        return Headline("bad", f"{plural(failed, 'task')} failed", sentence)
    return Headline("plain", "Measured", sentence)


_FINDINGS: dict[type[Facts], Callable[[Any], Headline]] = {
    RunFacts: headline, CompressionFacts: verdict, FewShotFacts: _few_shots, SuiteFacts: _suite,
    PanelFacts: panel.headline,
}  # fmt: skip
_ACCURACIES: dict[type[Facts], Callable[[Any], float | None]] = {
    RunFacts: _of_run, CompressionFacts: _of_compression, FewShotFacts: _of_shots, SuiteFacts: _of_suite,
    PanelFacts: _of_panel,
}  # fmt: skip
