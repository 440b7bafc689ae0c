"""Being asked to stop: SIGTERM and Ctrl-C raise a flag that the loop reads between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class StopFlag:
    """`number` is the signal that asked for a stop, or 0."""

    number: int = 0


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Turn SIGINT and SIGTERM into a flag while the block runs; a second one acts as usual."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread can take signals; elsewhere nobody can ask
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        flag.number = number
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, ask)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
