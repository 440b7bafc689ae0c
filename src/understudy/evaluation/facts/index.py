"""Facts of a folder of runs."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from understudy.evaluation.facts.base import Facts, Share
from understudy.evaluation.facts.transfer import FewShotFacts, SuiteFacts


class IndexEntry(Facts):
    """One run, or a folder of several that one verb made."""

    path: str  # of its folder, relative to the page
    kind: str = ""  # the verb that made it
    data: str = ""
    created: datetime | None = None
    seconds: float | None = None  # of training
    accuracy: Share | None = None  # of what it made: mean over seeds, on the test part
    verdict: str = ""
    tone: Literal["good", "bad", "open", "plain"] = "plain"
    sentence: str = ""  # its headline, or why there is none
    page: str = ""  # of its report, relative to the page; empty without one


class IndexFacts(Facts):
    """The runs below a folder, the newest first; of few-shot transfers and suites also what they found."""

    subject = "index"

    name: str
    entries: list[IndexEntry]
    few_shots: list[FewShotFacts] = []
    suites: list[SuiteFacts] = []
