"""What training costs: the seconds of the teacher's pass and of each member's update, on the images they saw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

_WARM_UP = 3  # steps after each start that are not counted: they fill caches, and the first member would pay for all


class Laps:
    """A watch that is marked where a step begins, and by each runner when it is done, in any order.

    A CPU's clock is read at the mark. CUDA works on while the loop runs ahead, so there an event is put in
    the stream and read later, when the loop waits for the device anyhow. Other devices are not measured.

    Args:
        names: the runners.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._clock: Any = {"cpu": time.perf_counter, "cuda": _event}.get(device.type)
        self._seconds = dict.fromkeys(names, 0.0)
        self._images = 0
        self._steps = 0
        self._marks: list[tuple[str, Any]] = []
        self._unread: list[list[tuple[str, Any]]] = []

    def mark(self, done: str = "") -> None:
        """A step begins, or this runner is done: what passed since the mark before is its own."""
        if self._clock is not None:
            self._marks.append((done, self._clock()))

    def count(self, images: int) -> None:
        """The step is over: book its marks."""
        self._steps += 1
        if self._marks and self._steps > _WARM_UP:
            self._unread.append(self._marks)
            self._images += images
        self._marks = []

    def read(self) -> dict[str, Any]:
        """Add up the marks so far: `seconds` by runner, over `images`, as `restore` takes them."""
        for marks in self._unread:
            for (_, start), (name, end) in pairwise(marks):
                self._seconds[name] += _between(start, end)
        self._unread = []
        return {"seconds": dict(self._seconds), "images": self._images}

    def restore(self, read: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        self._seconds |= read["seconds"]
        self._images = read["images"]


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start: Any, end: Any) -> float:
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


def milliseconds_an_image(read: dict[str, Any]) -> dict[str, float]:
    """Each runner's time for one image, from what `Laps.read` gave; {} where nothing was measured."""
    images = read.get("images", 0)
    return {name: 1000 * seconds / images for name, seconds in read["seconds"].items()} if images else {}
