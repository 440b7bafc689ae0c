"""Work in several processes on one machine: data-parallel ranks, or independent jobs."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from understudy.errors import Interrupted, ProcessKilled, UnderstudyError
from understudy.training.interrupt import forward_signal, handle_stop_signals

_GRACE = 5.0  # seconds to end by oneself once another process has failed or the parent is gone


def launch(fabric: Fabric, work: Callable[[Fabric], None], run: str) -> None:
    """Run `work(fabric)` on every rank, in processes that this one starts unless torchrun or SLURM started them.

    The ranks end together: SIGINT and SIGTERM are forwarded to them, so that they write a checkpoint and exit; once one
    has failed or was killed, the others, which would wait for it, are killed; and if this process is killed, they stop
    as by SIGTERM.

    Args:
        fabric: of the strategy "ddp", or of a single device.
        work: a picklable function.
        run: names the run in messages.

    Raises:
        ProcessKilled: a rank was killed.
        Interrupted, UnderstudyError: as a rank raised it.
    """
    strategy: Any = fabric.strategy
    if strategy.cluster_environment.creates_processes_externally:
        fabric.launch(work)
        return
    _ = strategy.cluster_environment.main_port  # a free one, chosen here for all ranks
    # as bytes, since multiprocessing would have tensors share their memory, and the ranks would train the same weights
    job = pickle.dumps((fabric, work, torch.are_deterministic_algorithms_enabled()))
    ranks: list[_Rank] = []
    with handle_stop_signals(lambda number: forward_signal(number, [rank.process for rank in ranks])):
        try:
            ranks += (_Rank.start(number, job) for number in range(strategy.num_processes))
            _wait_for(ranks)
            error = _first_cause(ranks, run)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.join()
                rank.receiver.close()
    if error is not None:
        raise error


@dataclass
class _Rank:
    """A process of a data-parallel group, as the one that started it sees it."""

    number: int
    process: BaseProcess
    receiver: Connection
    open: bool = True  # whether an error may still be sent
    errors: list[Exception | str] = field(default_factory=list)  # at most one; a traceback if it is not a user's

    @classmethod
    def start(cls, number: int, job: bytes) -> _Rank:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_rank, args=(number, job, sender), name=f"rank {number}")
        process.start()
        sender.close()
        return cls(number, process, receiver)

    @property
    def failed(self) -> bool:
        """Whether the others would wait for it in vain; those that a signal stopped have agreed on the step."""
        return any(not isinstance(error, Interrupted) for error in self.errors) or (
            bool(self.process.exitcode) and not self.errors
        )

    def receive(self) -> None:
        try:
            while self.open and self.receiver.poll():
                self.errors.append(self.receiver.recv())
        except EOFError:
            self.open = False


def _wait_for(ranks: Sequence[_Rank]) -> None:
    """Wait until all ranks have ended, or for `_GRACE` seconds after one has failed."""
    deadline = math.inf
    while running := [rank for rank in ranks if rank.process.exitcode is None]:
        left = deadline - time.monotonic()
        if left <= 0:
            return
        waited = [rank.process.sentinel for rank in running], [rank.receiver for rank in running if rank.open]
        wait([*waited[0], *waited[1]], None if left == math.inf else left)
        for rank in ranks:
            rank.receive()
        if deadline == math.inf and any(rank.failed for rank in ranks):
            deadline = time.monotonic() + _GRACE
    for rank in ranks:
        rank.receive()


def _first_cause(ranks: Sequence[_Rank], run: str) -> Exception | None:
    """Why the ranks ended early: one was killed, else an error that a user can mend, else one of our own; or None."""
    for rank in ranks:
        code = rank.process.exitcode or 0
        if code < 0 and not rank.errors:
            return ProcessKilled(run, rank.number, -code)
    errors = [error for rank in ranks for error in rank.errors]
    for error in errors:
        if isinstance(error, Exception):
            return error
    for rank in ranks:
        if rank.failed:
            return RuntimeError(
                f"rank {rank.number} failed\n{rank.errors[0] if rank.errors else rank.process.exitcode}"
            )
    return None


def _run_rank(number: int, job: bytes, sender: Connection) -> None:
    """Never returns: taking the interpreter down takes seconds on a busy machine, for which the others would wait."""
    code = 1
    try:
        os.environ["LOCAL_RANK"] = str(number)
        _depend_on_parent()
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would announce each rank
        fabric, work, deterministic = pickle.loads(job)
        torch.use_deterministic_algorithms(deterministic)
        fabric.launch(work)
        code = 0
    except (Interrupted, UnderstudyError) as error:
        _send(error, sender, tell=number == 0)
        code = 0
    except KeyboardInterrupt:  # outside of the loop, where there is nothing to save
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except Exception:
        _send(traceback.format_exc(), sender, tell=False)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _depend_on_parent() -> None:
    """Leave signals of the terminal to the parent, which forwards them, and stop once it is gone."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def stop() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE)
        os._exit(1)

    threading.Thread(target=stop, daemon=True).start()


def _send(error: Exception | str, sender: Connection, *, tell: bool) -> None:
    """Send an error to the parent; if that is gone, `tell` the user."""
    try:
        sender.send(error)
    except OSError:
        if tell:
            print(error, file=sys.stderr)


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
    _depend_on_parent()
    torch.set_num_threads(threads)
    try:
        job()
    except (Interrupted, UnderstudyError) as error:
        _send(error, sender, tell=True)
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
