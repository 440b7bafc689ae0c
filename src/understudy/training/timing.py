"""Training time of the teacher and of each member, in seconds and per image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

_MOST_SPANS = 20
_WARMUP_STEPS = 3  # not counted after each start: they fill caches, at the cost of whichever runs first


class StepTimer:
    """A stopwatch, marked at the start of a step and whenever the teacher or a member finishes, in any order.

    On CPUs, the clock is read at each mark. CUDA runs asynchronously, so a mark records an event in the stream, which
    is read later, when the loop synchronizes anyway. Other devices are not timed.

    >>> StepTimer(["teacher", "student"], torch.device("cpu")).read()
    {'seconds': {'teacher': 0.0, 'student': 0.0}, 'images': 0}
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._clock: Any = {"cpu": time.perf_counter, "cuda": _cuda_event}.get(device.type)
        self._seconds = dict.fromkeys(names, 0.0)
        self._images = self._steps = 0
        self._marks: list[tuple[str, Any]] = []
        self._unread: list[list[tuple[str, Any]]] = []
        self._spans: list[tuple[str, Any, Any, int]] = []

    def mark(self, name: str = "") -> None:
        """Start a step, or add the time since the previous mark to `name`."""
        if self._clock is not None:
            self._marks = [*(self._marks if name else []), (name, self._clock())]

    @contextmanager
    def apart(self, name: str, images: int) -> Iterator[None]:
        """Time work for the images of several steps: `name` is charged by the image, whatever else its marks say."""
        if self._clock is None or len(self._spans) > _MOST_SPANS:
            yield
            return
        start = self._clock()
        yield
        self._spans.append((name, start, self._clock(), images))

    def end_step(self, images: int) -> None:
        self._steps += 1
        if self._marks and self._steps > _WARMUP_STEPS:
            self._unread.append(self._marks)
            self._images += images
        self._marks = []

    def read(self) -> dict[str, Any]:
        """Total `seconds` by name, over `images`; waits for CUDA events."""
        for marks in self._unread:
            for (_, start), (name, end) in pairwise(marks):
                self._seconds[name] += _seconds_between(start, end)
        self._unread = []
        spans = self._spans[1:] or self._spans  # the first fills caches
        for name in {span[0] for span in spans}:
            seconds = sum(_seconds_between(start, end) for one, start, end, _ in spans if one == name)
            self._seconds[name] = seconds / sum(images for one, *_, images in spans if one == name) * self._images
        return {"seconds": dict(self._seconds), "images": self._images}

    def restore(self, read: dict[str, Any]) -> None:
        """Continue from what `read` returned before a checkpoint."""
        self._seconds |= read["seconds"]
        self._images = read["images"]


def _cuda_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(start: Any, end: Any) -> float:
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


def ms_per_image(read: dict[str, Any]) -> dict[str, float]:
    """Milliseconds per image by name, from what `StepTimer.read` returned; {} if nothing was timed.

    >>> ms_per_image({"seconds": {"teacher": 2.0, "student": 0.5}, "images": 1000})
    {'teacher': 2.0, 'student': 0.5}
    """
    images = read.get("images", 0)
    return {name: 1000 * seconds / images for name, seconds in read["seconds"].items()} if images else {}
