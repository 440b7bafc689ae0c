"""A process of a run with several ranks is killed: the others end soon, and the run can be resumed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import understudy
from understudy.cli import main
from understudy.runs import Run

LIMIT = 10.0
COMMAND = (
    "train", "digits", "--model", "mlp:8?batchnorm=true", "--devices", "2", "--accelerator", "cpu", "--precision", "32",
    "--epochs", "5", "--batch-size", "99", "--checkpoint-every", "0",
)  # fmt: skip


def weights(folder: Path) -> dict[str, bytes]:
    return {name: file.read_bytes() for name, file in Run(folder).models.items()}


def wait_until(holds: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


def trains(run: Path) -> bool:
    """Whether a few steps are made."""
    return any(int(file.stem[5:]) > 5 for file in (run / "checkpoints").glob("step-*.sha256"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main([*COMMAND, "--run", str(run)]) == 0
    return weights(run)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.campaign), 1])
def test_a_killed_rank(rank: int, whole: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, killed = tmp_path / "run", []

    def kill() -> None:
        wait_until(lambda: trains(run))
        (process,) = (child for child in multiprocessing.active_children() if child.name == f"rank {rank}")
        process.kill()
        killed.append(time.monotonic())

    thread = threading.Thread(target=kill)
    thread.start()
    code = main([*COMMAND, "--run", str(run)])
    thread.join()
    assert time.monotonic() - killed[0] < LIMIT
    assert code == 128 + signal.SIGKILL
    assert not multiprocessing.active_children(), "no process is left"
    assert capfd.readouterr().err == (
        f"the process of rank {rank} was killed by SIGKILL, perhaps for lack of memory; "
        f"continue with: understudy resume {run}\n"
    )
    assert not Run(run).finished
    understudy.resume(run)
    assert weights(run) == whole


@pytest.mark.campaign
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the children of a process from /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_parent(number: signal.Signals, whole: dict[str, bytes], tmp_path: Path) -> None:
    """The ranks end without it; Ctrl-C in a terminal reaches every process of its group, and counts as one signal."""
    run = tmp_path / "run"
    program = [sys.executable, "-m", "understudy", *COMMAND, "--run", str(run)]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: trains(run))
    ranks = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.killpg(process.pid, number)
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), LIMIT)
    assert said.startswith("stopped at step ")
    assert said.endswith(f"continue with: understudy resume {run}\n")
    assert said.count("\n") == 1
    understudy.resume(run)
    assert weights(run) == whole
