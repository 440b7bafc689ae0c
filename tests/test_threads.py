"""The number of CPU threads: chosen where a run begins, as fast as the best, and kept."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import understudy
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.pipeline import threads
from understudy.pipeline.device import make_fabric
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.threads import affordable_size, candidates, choose_threads, fastest, time_threads
from understudy.runs.run import Run
from understudy.training import Loop


@pytest.fixture(autouse=True)
def same_threads_after() -> Iterator[None]:
    """What a test pretends about threads is not what torch restores."""
    before, restore = torch.get_num_threads(), torch.set_num_threads
    yield
    restore(before)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four cores, whose user asks for no number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


def chosen(recipe: TrainRecipe | DistillRecipe, jobs: int = 1) -> threads.Threads:
    return choose_threads(pipeline_of(recipe), make_fabric(recipe), jobs)


def digits(**fields: Any) -> TrainRecipe:
    return TrainRecipe(**{"data": "digits", "model": "mlp:8", "accelerator": "cpu", "epochs": 1, **fields})


@given(st.integers(1, 500))
def test_one_and_all_threads_are_tried(most: int) -> None:
    tried = candidates(most)
    assert tried[0] == 1
    assert tried[-1] == most
    assert tried == sorted(set(tried))


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-6, 10), min_size=1))
def test_the_fastest_number_is_within_a_tenth_of_the_best(seconds: dict[int, float]) -> None:
    assert seconds[fastest(seconds)] <= 1.1 * min(seconds.values())


@pytest.mark.parametrize(("cost", "best"), [({1: 4, 2: 2, 4: 1}, 4), ({1: 1, 2: 3, 4: 9}, 1), ({1: 2, 2: 1, 4: 6}, 2)])
def test_steps_are_timed_with_each_number(monkeypatch: pytest.MonkeyPatch, cost: dict[int, int], best: int) -> None:
    """By a clock that each step moves by what it costs with the threads in use."""
    now, used = [0.0], [1]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: used.__setitem__(0, count))

    def step() -> None:
        now[0] += 1e-3 * cost[used[0]]

    seconds = time_threads(step, [1, 2, 4])
    assert seconds == pytest.approx({count: 1e-3 * value for count, value in cost.items()})
    assert fastest(seconds) == best
    assert used == [1], "what was set is set again"
    assert now[0] < 0.2
    assert affordable_size(lambda size: now.__setitem__(0, now[0] + 1e-3), 100) == 100
    assert affordable_size(lambda size: now.__setitem__(0, now[0] + 1e-3 * size), 100) == 16
    assert affordable_size(lambda size: now.__setitem__(0, now[0] + 1.0), 100) == 2


def test_what_the_user_asks_for_is_not_measured(monkeypatch: pytest.MonkeyPatch, four_cores: None) -> None:
    monkeypatch.setattr(threads, "time_threads", lambda *_: pytest.fail("timed"))
    assert chosen(digits(threads=3)).count == 3
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    assert chosen(digits()).count == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert chosen(digits()) == threads.Threads(4)
    assert chosen(digits(), jobs=2).count == 2


def test_jobs_at_a_time_share_the_cores(monkeypatch: pytest.MonkeyPatch, four_cores: None) -> None:
    tried = []

    def timed(step: Callable[[], object], counts: list[int]) -> dict[int, float]:
        step()
        tried.append(counts)
        return {count: 1.0 / count for count in counts}

    monkeypatch.setattr(threads, "time_threads", timed)
    assert chosen(digits()).count == 4
    found = chosen(digits(), jobs=2)
    assert (found.count, tried) == (2, [[1, 2, 4], [1, 2]])
    assert "1e+03 ms with 1, 500 ms with 2" in found.reason


def test_a_measured_run_has_the_bits_of_one_that_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The timed steps, of a student and its teacher, leave nothing behind: neither weights nor random numbers."""
    understudy.train("digits", "mlp:8", epochs=1, run=tmp_path / "teacher")
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 9), torch.nn.BatchNorm1d(9), torch.nn.ReLU(),
                                 torch.nn.Dropout(0.3), torch.nn.Linear(9, 10))  # fmt: skip
    start = {name: value.clone() for name, value in module.state_dict().items()}
    files = []
    for name in ("told", "measured"):
        fields: dict[str, Any] = {"epochs": 2, "run": tmp_path / name, "teacher": str(tmp_path / "teacher")}
        if name == "told":
            fields["threads"] = 1
        else:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            monkeypatch.setattr(threads, "usable_cores", lambda: 2)
            monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
            monkeypatch.setattr(threads, "fastest", lambda seconds: 1)
        module.load_state_dict(start)
        capfd.readouterr()
        run = understudy.distill("digits", student=module, **fields)
        files.append((run.path / "models" / "distilled-0.safetensors").read_bytes())
        assert run.record["machine"]["threads"] == 1
        assert ("CPU threads: 1, as timed steps of" in capfd.readouterr().out) == (name == "measured")
    assert files[0] == files[1]


def test_threads_are_an_option_of_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = Loop._update

    def counted(self: Loop, *arguments: Any) -> None:
        seen.append(torch.get_num_threads())
        real(self, *arguments)

    monkeypatch.setattr(Loop, "_update", counted)
    before = torch.get_num_threads()
    understudy.train("digits", "mlp:8", steps=2, threads=2, run=tmp_path / "run")
    assert set(seen) == {2}
    assert torch.get_num_threads() == before
    assert Run(tmp_path / "run").record["machine"]["threads"] == 2
    seen.clear()
    understudy.few_shots("digits", "cnn:4", shots=(2,), draws=2, steps=2, threads=2, from_scratch=True,
                         run=tmp_path / "shots")  # fmt: skip
    assert set(seen) == {2}


_BUSY = """
import json, os, sys, subprocess
os.environ.pop("OMP_NUM_THREADS", None)
from understudy.verbs.train import train
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
try:
    run = train("digits", "mlp:100x1", epochs=1, run=sys.argv[1])
finally:
    for process in busy:
        process.kill()
print(json.dumps(run.record["machine"]["threads"]))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs several cores")
def test_on_a_busy_machine_a_small_network_has_one_thread(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", _BUSY, tmp_path / "run"], capture_output=True, text=True, env=env, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == 1


_ALLOCATIONS = """
import resource, torch
from understudy.pipeline.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc keeps freed memory by itself")
def test_the_memory_of_freed_tensors_is_used_again() -> None:
    found = subprocess.run([sys.executable, "-c", _ALLOCATIONS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, found.stdout.split())
    pages = 2**26 // resource.getpagesize()
    assert given_back > 9 * pages, "this machine has no such problem"
    assert kept < pages
