"""How many CPU threads a run computes with: chosen where it begins, by a few timed steps.

Every operation waits for the slowest of its threads. On an idle machine more threads are faster for all but small
networks; where another process takes one of the cores, threads on all of them are several times slower than one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from understudy.config.options import MachineOptions
from understudy.data import Source
from understudy.models import to_channels_last
from understudy.pipeline.base import Pipeline
from understudy.pipeline.device import accelerator_of, keep_freed_memory, usable_cores
from understudy.signals import Batch
from understudy.terminal import Terminal
from understudy.training.optimizer import make_optimizer

_SECONDS = 0.1  # of timed steps, if they are that short
_STEP = 0.03  # seconds: of longer steps, a smaller batch is timed; one of a few samples would not gain by threads
_TURNS = 5  # of each number of threads
_SLOWER = 1.3  # times the best: not timed again
_WORTH = 0.95  # of the time, for more threads: they keep other processes from the cores


@dataclass(frozen=True)
class Threads:
    """A number of threads.

    Attributes:
        reason: how long a step takes with it and with others, as one line; empty where nothing was timed.
    """

    count: int
    reason: str = ""

    def announced(self) -> int:
        """The number; the terminal shows it where it was measured."""
        if self.reason:
            Terminal().say(f"CPU threads: {self.count}, as {self.reason}")
        return self.count


def choose_threads(pipeline: Pipeline[Any], fabric: Fabric, jobs: int = 1) -> Threads:
    """The number of threads to train with, by updates of a student that is made for this alone.

    Args:
        jobs: how many of the kind are to run at a time.
    """
    recipe = pipeline.recipe
    size = recipe.micro_batch or recipe.batch_size
    return threads_by_trial(recipe, fabric, lambda: _throw_away_update(pipeline, fabric), size, jobs)


def threads_by_trial(
    options: MachineOptions, fabric: Fabric, prepare: Callable[[], Callable[[int], object]], most: int, jobs: int = 1
) -> Threads:
    """The number of threads to compute with: as `threads` or OMP_NUM_THREADS says, else the fastest of those tried.

    At most as many are tried as torch would use, and as there are cores in the affinity and the quota of the process.
    Each of several data-parallel processes, and of several jobs, gets its share of them.

    Args:
        prepare: makes what is timed, a function of the number of samples.
        most: samples of a step.
        jobs: how many of the kind are to run at a time.
    """
    if options.threads is not None:
        return Threads(options.threads)
    known = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ or accelerator_of(options) != "cpu":
        return Threads(max(1, known // jobs))
    cores = max(1, min(known, usable_cores()) // (jobs * options.devices))
    if cores == 1 or fabric.world_size > 1:
        return Threads(cores)
    with torch.random.fork_rng(devices=[]):
        step = prepare()
        size = affordable_size(step, most)
        seconds = time_threads(partial(step, size), candidates(cores))
    times = ", ".join(f"{1e3 * time:.3g} ms with {count}" for count, time in seconds.items())
    return Threads(fastest(seconds), f"timed steps of {size} samples take {times}")


def candidates(most: int) -> list[int]:
    """The numbers of threads to try: the powers of two, and all.

    >>> candidates(2), candidates(12)
    ([1, 2], [1, 2, 4, 8, 12])
    """
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


def fastest(seconds: Mapping[int, float]) -> int:
    """The number of threads with the shortest step; of nearly equal ones the smallest.

    >>> fastest({1: 0.40, 2: 0.39, 4: 1.20}), fastest({1: 3.1, 2: 1.8})
    (1, 2)
    """
    best = min(seconds.values())
    return min(count for count, time in seconds.items() if time * _WORTH <= best)


def time_threads(step: Callable[[], object], counts: Sequence[int], seconds: float = _SECONDS) -> dict[int, float]:
    """The mean time of a step with each number of threads, in seconds.

    They take turns, each for a few milliseconds, so that the load of the moment meets all of them. The mean counts, as
    a wait for a core that others use is rare and long. Those that are clearly slower drop out.
    """
    for count in counts:
        with using_threads(count):
            step()  # starts the threads, and has libraries prepare their kernels for so many
    spent, steps = dict.fromkeys(counts, 0.0), dict.fromkeys(counts, 0)
    running, turn, start = list(counts), seconds / (_TURNS * len(counts)), time.perf_counter()
    while len(running) > 1 and time.perf_counter() - start < seconds:
        second = all(steps.values())
        for count in running:
            with using_threads(count):
                begin = now = time.perf_counter()
                while now - begin < turn:
                    step()
                    steps[count] += 1
                    now = time.perf_counter()
            spent[count] += now - begin
        if second:
            best = min(spent[count] / steps[count] for count in running)
            running = [count for count in running if spent[count] / steps[count] < _SLOWER * best]
    return {count: spent[count] / steps[count] for count in counts}


def affordable_size(update: Callable[[int], object], most: int) -> int:
    """How many samples, of at most `most`, one thread updates on in a short time; at least two, as BatchNorm needs."""
    size = min(2, most)
    with using_threads(1):
        if _seconds(update, size) > 10 * _STEP:  # even though the first update is slower
            return size
        while size < most and _seconds(update, size) < _STEP / 2:
            size = min(2 * size, most)
    return size


def _seconds(update: Callable[[int], object], size: int) -> float:
    start = time.perf_counter()
    update(size)
    return time.perf_counter() - start


def blank_batch(source: Source, size: int) -> Batch:
    """So many samples of a source as a batch, but gray."""
    ids = source.ids[torch.arange(size) % len(source)]
    inputs = {name: torch.full((size, *one.shape), 0.5) for name, one in source.modalities.items()}
    return Batch(ids, ids, inputs if len(inputs) > 1 else next(iter(inputs.values())), None)


def _throw_away_update(pipeline: Pipeline[Any], fabric: Fabric) -> Callable[[int], None]:
    """An update of a student that is made for this alone, beside an answer of the teacher, on blank samples."""
    teacher = pipeline.teacher(fabric.device)
    network = pipeline.student(pipeline.contract(), 0, several=True)
    to_channels_last(network.train(), fabric.device)
    optimizer = make_optimizer(network, pipeline.recipe.optimizer)
    train = pipeline.data.train

    def update(size: int) -> None:
        batch = blank_batch(train, size)
        optimizer.zero_grad()
        with fabric.autocast():
            if teacher is not None:
                teacher(batch)
            loss = network(batch).logits.float().square().mean()
        loss.backward()
        optimizer.step()

    return update


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Have torch use so many threads; as many as before where None."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
