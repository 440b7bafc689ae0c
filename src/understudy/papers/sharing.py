"""Runs that several processes, on one or more machines, share out among themselves by the locks of their folders."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.config.recipe import Recipe
    from understudy.papers.experiment import Bench
    from understudy.runs.run import Run

_PAUSE = 10.0  # seconds between looks at what others have in hand


@dataclass(frozen=True)
class Job:
    """A run to complete, by the name of its folder.

    Attributes:
        after: the job whose run it reads, which must be finished first.
    """

    name: str
    recipe: Recipe
    after: str = ""


def complete(bench: Bench, jobs: Sequence[Job]) -> dict[str, Run]:
    """Finish all runs that no other process has in hand, in their order, and return the finished ones by name.

    A run that another process holds is passed over and looked at again later. Jobs that read it are waited for; where
    others have all that is left in hand, they are left to them, and are missing in what is returned.
    """
    from understudy.runs.lock import InUse
    from understudy.terminal import Terminal

    done: dict[str, Run] = {}
    said: set[str] = set()
    left = list(jobs)
    while left:
        progress, others = False, []
        for job in left:
            if job.after and job.after not in done:
                others.append(job)
                continue
            try:
                done[job.name] = bench.ensure(job.name, job.recipe)
                progress = True
            except InUse as reason:
                others.append(job)
                if job.name not in said:
                    Terminal().say(f"{job.name} is left to another process: {reason}")
                    said.add(job.name)
        left = others
        if not progress:
            if all(not job.after or job.after in done for job in left):
                break
            time.sleep(_PAUSE)
    return done
