"""Work in several processes on one machine: data-parallel ranks, or independent jobs."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from understudy.errors import Interrupted, UnderstudyError
from understudy.training.interrupt import forward_signal, handle_stop_signals


def launch(fabric: Fabric, work: Callable[[Fabric], None]) -> None:
    """Run `work(fabric)` on every rank; raises the first rank's `Interrupted` or `UnderstudyError`.

    SIGINT and SIGTERM are forwarded to the processes that this one started, which then write a checkpoint and exit
    together.
    """
    with handle_stop_signals(lambda number: forward_signal(number, multiprocessing.active_children())):
        error = fabric.launch(partial(_run_rank, work=work))
    if error is not None:
        raise error


def _run_rank(fabric: Fabric, work: Callable[[Fabric], None]) -> Exception | None:
    """Return the errors that callers expect; raise all others in place."""
    try:
        work(fabric)
    except (Interrupted, UnderstudyError) as error:
        return error
    finally:
        if multiprocessing.parent_process() is not None and dist.is_initialized():
            dist.destroy_process_group()  # its threads may not outlive the interpreter
    return None


def run_jobs(jobs: Mapping[str, Callable[[], object]], parallel: int, threads: int) -> None:
    """Run independent jobs in processes, `parallel` at a time, each with so many threads.

    SIGINT and SIGTERM are forwarded to the running jobs, and no more are started. A job that fails does not stop the
    others. Afterwards, this raises `Interrupted` if a job was, else the first error, or that a process was killed.
    `jobs` are picklable functions by name; names appear in error messages.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(jobs.items())
    running: dict[str, tuple[BaseProcess, Connection]] = {}
    errors: list[Exception] = []

    def stop(number: int) -> None:
        waiting.clear()
        forward_signal(number, [process for process, _ in running.values()])

    with handle_stop_signals(stop):
        while waiting or running:
            while waiting and len(running) < parallel:
                name, job = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_run_job, args=(job, sender, threads), name=name)
                process.start()
                sender.close()
                running[name] = process, receiver
            wait([process.sentinel for process, _ in running.values()])
            for name, (process, receiver) in list(running.items()):
                if process.exitcode is not None:
                    if error := _error_of(name, process, receiver):
                        errors.append(error)
                    del running[name]
    if errors:
        raise next((error for error in errors if isinstance(error, Interrupted)), errors[0])


def _run_job(job: Callable[[], object], sender: Connection, threads: int) -> None:
    os.environ["TTY_COMPATIBLE"] = "0"  # plain lines: two progress bars would overwrite each other
    torch.set_num_threads(threads)
    try:
        job()
    except (Interrupted, UnderstudyError) as error:
        sender.send(error)
    finally:
        sender.close()


def _error_of(name: str, process: BaseProcess, receiver: Connection) -> Exception | None:
    """The error of a finished process, if any."""
    process.join()
    error = None
    try:
        error = receiver.recv()
    except EOFError:
        if process.exitcode:
            how = f"by signal {-process.exitcode}" if process.exitcode < 0 else f"with code {process.exitcode}"
            error = UnderstudyError(f"the process of {name} ended {how}; run the same command again to continue")
    receiver.close()
    return error
