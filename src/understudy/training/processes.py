"""Several processes on one machine: started by Fabric, stopped together, their errors brought home."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial

import torch.distributed as dist
from lightning_fabric import Fabric

from understudy.errors import Interrupted, UnderstudyError


def launch(fabric: Fabric, work: Callable[[Fabric], None]) -> None:
    """Run `work(fabric)` in every process.

    A signal that asks this process to stop is passed on to those it started, which then checkpoint and end
    together; what stops the first of them is raised here.
    """
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    previous = {number: signal.signal(number, _pass_on) for number in numbers}
    try:
        stopped = fabric.launch(partial(_outcome, work=work))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stopped is not None:
        raise stopped


def _outcome(fabric: Fabric, work: Callable[[Fabric], None]) -> Exception | None:
    """What stopped the work, if anything that a caller expects did; other errors are raised where they happen."""
    try:
        work(fabric)
    except (Interrupted, UnderstudyError) as error:
        return error
    finally:
        if multiprocessing.parent_process() is not None and dist.is_initialized():
            dist.destroy_process_group()  # before the interpreter ends, whose end its threads may not outlive
    return None


def _pass_on(number: int, frame: object) -> None:
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, number)
