"""Every verb that writes, killed by SIGKILL at seeded moments and continued, ends with the same bytes and files.

A moment is a call: one that changes the disk (half of the cases), or any of the package's functions.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

import understudy
from resumable import QUICK, VERBS, make_home, weights, written
from understudy.errors import UnderstudyError
from understudy.runs import Run

CASES = 9  # of each verb
EVERY_DAY = ("train", "few shots", "speech", "overwrite")
_DISK = frozenset({"replace", "rename", "fsync", "unlink", "mkdir", "rmdir", "link"})

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["understudy.verbs.resume", "understudy.verbs.export", "understudy.verbs.speech"])


def overwrite(home: Path, at: Path) -> None:
    understudy.train("digits", "mlp:8", run=at, epochs=2, overwrite=True, **QUICK)


def export(home: Path, at: Path) -> None:
    understudy.export(home / "teacher", format=("onnx", "torch"), out=at)


ALL = VERBS | {"overwrite": overwrite, "export": export}


class Moments:
    """Counts calls, those that change the disk and all, and kills this process at one of them."""

    def __init__(self, disk: bool = False, at: int = -1) -> None:
        self.disk, self.at = disk, at
        self.counts = {True: 0, False: 0}

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        if event == "c_call":
            disk, counted = True, arg.__module__ == "posix" and arg.__name__ in _DISK
        else:
            disk, counted = False, event == "call" and "understudy" in frame.f_code.co_filename
        if counted:
            self.counts[disk] += 1
            if disk == self.disk and self.counts[disk] == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def run_watched(work: Callable[[], object], moments: Moments, report: Any) -> None:
    with open(os.devnull, "w") as quiet:
        sys.stdout = sys.stderr = quiet
        sys.setprofile(moments)
        work()
        sys.setprofile(None)
    report.send(moments.counts)


def in_process(work: Callable[[], object], moments: Moments) -> dict[bool, int] | None:
    """The numbers of moments of some work, on the disk and in all; None if it was killed."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_watched, args=(work, moments, sender))
    process.start()
    sender.close()
    with suppress(EOFError):
        counts = receiver.recv()
        process.join()
        return counts
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it failed by itself"
    return None


def do(verb: str, home: Path, at: Path) -> None:
    ALL[verb](home, at)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def whole(home: Path) -> Callable[[str], tuple[Path, dict[bool, int]]]:
    """verb -> its results when nothing stops it, and its number of moments on the disk and in all."""
    done: dict[str, tuple[Path, dict[bool, int]]] = {}

    def of(verb: str) -> tuple[Path, dict[bool, int]]:
        if verb not in done:
            place = home / "whole" / verb / "r"
            counts = in_process(partial(do, verb, home, place), Moments())
            assert counts is not None
            done[verb] = place, counts
        return done[verb]

    return of


def cases() -> list[Any]:
    numbered = [(verb, number) for verb in ALL for number in range(CASES)]
    return [
        pytest.param(
            verb, number, id=f"{verb}-{number}", marks=[pytest.mark.campaign] * (number > 0 or verb not in EVERY_DAY)
        )
        for verb, number in numbered
    ]


@pytest.mark.parametrize(("verb", "number"), cases())
def test_killed_and_continued(verb: str, number: int, home: Path, whole: Any, tmp_path: Path) -> None:
    reference, counts = whole(verb)
    at, random = tmp_path / "r", Random(f"{verb} {number}")
    if verb == "overwrite":
        shutil.copytree(home / "teacher", at)
    disk = number % 2 == 0
    if in_process(partial(do, verb, home, at), Moments(disk, random.randint(1, counts[disk]))) is None:
        go_on(verb, home, at)
    kept = verb == "overwrite" and (at / "run.json").exists() and Run(at).recipe == Run(home / "teacher").recipe
    expected = home / "teacher" if kept else reference
    assert weights(at) == weights(expected)
    assert written(at) == written(expected)


def go_on(verb: str, home: Path, at: Path) -> None:
    """What a user does next: resume; or, where there is nothing to resume yet, the same command."""
    try:
        understudy.resume(at)
    except UnderstudyError as error:
        if "not a run folder" in str(error) or "no run folder" in str(error):
            do(verb, home, at)
        elif "is finished" not in str(error):
            raise
