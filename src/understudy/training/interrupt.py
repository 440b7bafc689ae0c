"""Handling of SIGINT and SIGTERM: a flag for the training loop, and forwarding to child processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any


@dataclass
class StopFlag:
    """`number` is the signal that requested a stop, or 0."""

    number: int = 0


@contextmanager
def handle_stop_signals(handler: Callable[[int], None]) -> Iterator[dict[int, Any]]:
    """Call `handler(number)` on SIGINT and SIGTERM while the block runs; yields the previous handlers by signal.

    Only the main thread can handle signals; in other threads this does nothing.

    >>> received = []
    >>> with handle_stop_signals(received.append):
    ...     signal.raise_signal(signal.SIGTERM)
    >>> received == [signal.SIGTERM]
    True
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    previous: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    for number in previous:
        signal.signal(number, lambda number, frame: handler(number))
    try:
        yield previous
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """A flag that SIGINT and SIGTERM set while the block runs; a second signal acts as usual."""
    flag = StopFlag()

    def request_stop(number: int) -> None:
        flag.number = number
        signal.signal(number, previous[number])

    with handle_stop_signals(request_stop) as previous:
        yield flag


def forward_signal(number: int, processes: Iterable[BaseProcess]) -> None:
    """Send a signal to those of the processes that are running."""
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)
