"""`dry_run`: what a run would be, and how long it would take."""

from __future__ import annotations

import time
from typing import Any

from understudy.evaluation import flops, parameters
from understudy.preparing import (
    Given,
    check_recipe,
    join,
    make_batches,
    make_fabric,
    prepare_data,
    prepare_members,
    prepare_teachers,
    wanted,
)
from understudy.recipe import AnyRecipe, DistillRecipe
from understudy.training import Loop
from understudy.training.progress import clock


def dry_run(recipe: AnyRecipe, *, trust_code: bool = False) -> dict[str, object]:
    """What a run would be: samples, steps, parameters, FLOPs, and the time that a few measured steps foretell."""
    given = Given(trust_code=trust_code)
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
    batches = make_batches(recipe, material, fabric)
    loop = Loop(fabric, members, batches, recipe, panel, watcher=_Stopwatch())
    facts["steps"] = f"{loop.steps:,}"
    try:
        loop.run()
    except _Enough as measured:
        facts["time"] = f"about {clock(measured.seconds_a_step * loop.steps)}"
    return facts


class _Enough(Exception):
    """Enough steps were timed."""

    seconds_a_step: float


class _Stopwatch:
    """Times the steps after the first three, for three seconds or to the end, and stops the loop."""

    def begin(self, step: int, steps: int) -> None:
        self.last = steps

    def step(self, step: int, samples: int, rows: Any) -> None:
        now = time.perf_counter()
        if step == min(3, self.last - 1):
            self.start, self.first = now, step
        elif step > 3 and (now - self.start > 3 or step == self.last):
            enough = _Enough()
            enough.seconds_a_step = (now - self.start) / (step - self.first)
            raise enough

    def epoch(self, rows: list[dict[str, Any]]) -> None: ...

    def end(self) -> None: ...
