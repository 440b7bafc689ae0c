"""What a run would be, and how long it would take, by a few measured steps."""

from __future__ import annotations

import time
from typing import Any

from understudy.data.skipped import count_skip_reasons
from understudy.evaluation import flops, parameters
from understudy.pipeline.base import Pipeline
from understudy.pipeline.device import make_fabric
from understudy.pipeline.first_stage import steps_before
from understudy.pipeline.run import signals_read
from understudy.pipeline.threads import choose_threads, using_threads
from understudy.training import Loop
from understudy.training.logging import clock
from understudy.training.timing import ms_per_image


def dry_run(pipeline: Pipeline[Any]) -> dict[str, str]:
    """Samples, steps, parameters, FLOPs, and the expected time of a run. Nothing is written.

    Raises:
        UnderstudyError: whatever the run would raise before its first step.
    """
    loop, threads, facts = _prepared(pipeline)
    with using_threads(threads):
        expected = _timed(loop) * (loop.steps + steps_before(pipeline.recipe, loop.members, loop.batches))
    return facts | {"steps": f"{loop.steps:,}", "time": f"about {clock(expected)}"}


def step_seconds(pipeline: Pipeline[Any]) -> tuple[float, float]:
    """Measured time of an update of all members on this machine, and how much of it the teacher takes."""
    loop, threads, _ = _prepared(pipeline)
    with using_threads(threads):
        whole = _timed(loop)
    teacher = ms_per_image(loop.timer.read()).get("teacher", 0.0) / 1000 * pipeline.recipe.batch_size
    return whole, min(teacher, whole)


def _prepared(pipeline: Pipeline[Any]) -> tuple[Loop, int, dict[str, str]]:
    """The loop of one process, ready to run, its number of threads, and what a dry run reports of it."""
    pipeline.check()
    recipe, data = pipeline.recipe, pipeline.data
    fabric = make_fabric(recipe.model_copy(update={"devices": 1, "nodes": 1}))
    threads = choose_threads(pipeline, fabric).count
    teacher = pipeline.teacher(fabric.device)
    members = pipeline.members()
    student = members[-1].network
    facts = {
        "training samples": f"{len(data.train):,}",
        "test samples": f"{len(data.test):,}" if data.test is not None else "none",
        "networks": f"{len(members)}",
        "parameters": f"{parameters(student):,}",
        "FLOPs per image": f"{flops(student):,}",
    }
    for part, skipped in data.skipped.items():
        if skipped:
            facts[f"skipped in {part}"] = "; ".join(f"{n:,} {why}" for why, n in count_skip_reasons(skipped).items())
    if teacher is not None:
        facts["teacher parameters"] = f"{sum(parameters(network) for network in pipeline.teachers.values()):,}"
        teacher.watch(signals_read(members))
    batches = pipeline.batches(fabric.device)
    return Loop(fabric, members, batches, recipe, teacher, callbacks=[_Stopwatch()]), threads, facts


def _timed(loop: Loop) -> float:
    """Seconds per step, over the first few."""
    try:
        loop.run()
    except _Measured as measured:
        return measured.seconds_per_step
    raise AssertionError("the stopwatch stops every loop")


class _Measured(Exception):
    """Enough steps were timed."""

    def __init__(self, seconds_per_step: float) -> None:
        self.seconds_per_step = seconds_per_step


class _Stopwatch:
    """Times the steps after the first three, for three seconds or to the end, and stops the loop.

    Of a loop with fewer steps, or with slow ones, it times those that there are.
    """

    def on_train_start(self, step: int, steps: int) -> None:
        self.last = steps
        self.start, self.first = time.perf_counter(), 0

    def on_step_end(self, step: int, samples: int, metrics: Any) -> None:
        now = time.perf_counter()
        if step == self.last or (step > 3 and now - self.start > 3) or now - self.start > 20:
            raise _Measured((now - self.start) / (step - self.first))
        if step <= min(3, self.last - 1):
            self.start, self.first = now, step

    def on_epoch_end(self, metrics: list[dict[str, Any]]) -> None: ...

    def on_train_end(self) -> None: ...
