"""`dry_run`: what a run would be, and how long it would take."""

from __future__ import annotations

import time
from typing import Any

from understudy.evaluation import flops, parameters
from understudy.machine import make_fabric
from understudy.material import Given, make_batches, prepare_data
from understudy.preparing import check_recipe, join, prepare_members, prepare_teachers, wanted
from understudy.recipe import AnyRecipe, DistillRecipe
from understudy.training import Loop
from understudy.training.progress import clock


def dry_run(recipe: AnyRecipe, *, trust_code: bool = False) -> dict[str, object]:
    """What a run would be: samples, steps, parameters, FLOPs, and the time that a few measured steps foretell."""
    loop, facts = _prepared(recipe, Given(trust_code=trust_code))
    return facts | {"steps": f"{loop.steps:,}", "time": f"about {clock(_timed(loop) * loop.steps)}"}


def seconds_a_step(recipe: AnyRecipe, given: Given) -> float:
    """How long an update of all of a recipe's members takes here, by a few measured ones."""
    return _timed(_prepared(recipe, given)[0])


def _prepared(recipe: AnyRecipe, given: Given) -> tuple[Loop, dict[str, object]]:
    """The loop of one process, ready to run, and what a dry run says of it."""
    check_recipe(recipe, given)
    material = prepare_data(recipe, given)
    networks, _ = prepare_teachers(recipe, given, material)
    fabric = make_fabric(recipe.model_copy(update={"devices": 1, "nodes": 1}))
    panel = join(list(networks.values()), recipe, fabric.device) if isinstance(recipe, DistillRecipe) else None
    members = prepare_members(recipe, given, material, list(networks.values()))
    student = members[-1].network
    facts: dict[str, object] = {
        "training samples": f"{len(material.train):,}",
        "test samples": f"{len(material.test):,}" if material.test is not None else "none",
        "students": len(members),
        "parameters": f"{parameters(student):,}",
        "FLOPs an image": f"{flops(student):,}",
    }
    if networks:
        facts["teachers' parameters"] = f"{sum(parameters(n) for n in networks.values()):,}"
    if panel is not None:
        panel.watch(wanted(members))
    return Loop(fabric, members, make_batches(recipe, material, fabric), recipe, panel, watcher=_Stopwatch()), facts


def _timed(loop: Loop) -> float:
    """Seconds a step, of the first few; the loop is left where it was stopped."""
    try:
        loop.run()
    except _Enough as measured:
        return measured.seconds_a_step
    raise AssertionError("the stopwatch stops every loop")


class _Enough(Exception):
    """Enough steps were timed."""

    def __init__(self, seconds_a_step: float) -> None:
        self.seconds_a_step = seconds_a_step


class _Stopwatch:
    """Times the steps after the first three, for three seconds or to the end, and stops the loop.

    Of a loop with fewer steps, or with slow ones, it times those that there are.
    """

    def begin(self, step: int, steps: int) -> None:
        self.last = steps
        self.start, self.first = time.perf_counter(), 0

    def step(self, step: int, samples: int, rows: Any) -> None:
        now = time.perf_counter()
        if step == self.last or (step > 3 and now - self.start > 3) or now - self.start > 20:
            raise _Enough((now - self.start) / (step - self.first))
        if step <= min(3, self.last - 1):
            self.start, self.first = now, step

    def epoch(self, rows: list[dict[str, Any]]) -> None: ...

    def end(self) -> None: ...
