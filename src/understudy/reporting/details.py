"""What a student gets wrong, and how sure it is: the sections that the pages of runs and of compressions share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from understudy.evaluation.facts import RunFacts
from understudy.reporting import confidence
from understudy.reporting.gallery import wrong_tile
from understudy.reporting.recall import worst

_TITLES = {"distilled": "the distilled student", "student alone": "the student alone", "model": "the model"}


def details(facts: RunFacts, folder: Path) -> dict[str, Any]:
    """The variables of `details.html.j2`; sections whose facts are missing are left out.

    Args:
        folder: of the run, with its images.
    """
    of = facts.confidence
    who = "" if of is None else _TITLES.get(of.name, of.name) + (f", seed {of.seed}" if of.seed else "")
    return {
        "recall": worst(facts.confusions) if facts.confusions else ([], ""),
        "confidence": of and {
            "of": of, "who": who, "figure": confidence.picture(of), "rows": confidence.thresholds(of),
            "trade": confidence.trade(of),
        },
        "mistakes": [wrong_tile(mistake, folder) for mistake in facts.mistakes],
    }  # fmt: skip
