"""Independent jobs in processes of their own, some at a time on one machine."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from understudy.errors import Interrupted, UnderstudyError


def run_jobs(jobs: Mapping[str, Callable[[], object]], at_once: int) -> None:
    """Run every job, `at_once` at a time; each has its share of this process's threads.

    A signal that asks this process to stop is passed on to those that run, which then end, and no more are started.
    One job's fault ends no other.

    Args:
        jobs: what to run, by a name for messages; they are pickled.

    Raises:
        Interrupted: a job was asked to stop.
        UnderstudyError: the first job's, or that a process was ended from outside.
    """
    threads = max(1, torch.get_num_threads() // at_once)
    context = get_context("spawn")
    left = deque(jobs.items())
    running: dict[str, tuple[BaseProcess, Connection]] = {}
    stopped: list[Exception] = []

    def pass_on(number: int, frame: object) -> None:
        left.clear()
        for process, _ in running.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    in_main = threading.current_thread() is threading.main_thread()
    previous = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    try:
        while left or running:
            while left and len(running) < at_once:
                name, job = left.popleft()
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(job, there, threads), name=name)
                process.start()
                there.close()
                running[name] = process, here
            wait([process.sentinel for process, _ in running.values()])
            for name, (process, pipe) in list(running.items()):
                if process.exitcode is not None:
                    fault = _outcome(name, process, pipe)
                    stopped += [fault] if fault else []
                    del running[name]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stopped:
        raise next((fault for fault in stopped if isinstance(fault, Interrupted)), stopped[0])


def _child(job: Callable[[], object], pipe: Connection, threads: int) -> None:
    os.environ["TTY_COMPATIBLE"] = "0"  # plain lines: two live bars would write over each other
    torch.set_num_threads(threads)
    try:
        job()
    except (Interrupted, UnderstudyError) as fault:
        pipe.send(fault)
    finally:
        pipe.close()


def _outcome(name: str, process: BaseProcess, pipe: Connection) -> Exception | None:
    """What stopped a process, if anything did."""
    process.join()
    fault = None
    try:
        fault = pipe.recv()
    except EOFError:
        if process.exitcode:
            how = f"by signal {-process.exitcode}" if process.exitcode < 0 else f"with code {process.exitcode}"
            fault = UnderstudyError(f"the process of {name} ended {how}; run the same command again to go on with it")
    pipe.close()
    return fault
