"""Training time is measured per member, and survives an interruption."""

from __future__ import annotations

import json
import os
import signal
from itertools import count
from pathlib import Path

import pytest
import torch

import understudy
from understudy.errors import Interrupted
from understudy.training import timing
from understudy.training.loop import Loop
from understudy.training.timing import StepTimer, ms_per_image


def test_times_add_up_after_the_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock) ** 2))
    timer = StepTimer(["teacher", "a", "b"], torch.device("cpu"))
    for _ in range(5):
        for done in ("", "teacher", "b", "a"):
            timer.mark(done)
        timer.end_step(10)
    # the fourth and the fifth step: marks at 12² .. 15² and at 16² .. 19²
    assert timer.read() == {"seconds": {"teacher": 25.0 + 33, "a": 29.0 + 37, "b": 27.0 + 35}, "images": 20}
    assert timer.read() == timer.read()
    assert ms_per_image(timer.read()) == {"teacher": 2900.0, "a": 3300.0, "b": 3100.0}


def test_nothing_is_measured_where_there_is_no_clock() -> None:
    timer = StepTimer(["a"], torch.device("meta"))
    for _ in range(9):
        timer.mark()
        timer.mark("a")
        timer.end_step(10)
    assert ms_per_image(timer.read()) == {}
    assert ms_per_image({}) == {}


def test_a_resumed_run_goes_on_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    understudy.train("digits", "mlp:8", epochs=1, run=tmp_path / "t")
    real, stops = Loop._update, [20]

    def update(self: Loop, batch: object, samples: int) -> None:
        real(self, batch, samples)  # type: ignore[arg-type]
        if stops and self._step + 1 == stops[0]:
            stops.pop()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_update", update)
    with pytest.raises(Interrupted):
        understudy.compare(
            "digits",
            str(tmp_path / "t"),
            "mlp:8",
            method=("kd", "crd"),
            seeds=1,
            epochs=2,
            batch_size=100,
            run=tmp_path / "r",
        )
    run = understudy.resume(tmp_path / "r")
    cost = run.record["cost"]
    assert set(cost["seconds"]) == {"teacher", "alone-0", "distilled-kd-0", "distilled-crd-0"}
    assert all(seconds > 0 for seconds in cost["seconds"].values())
    samples = 1438
    lost = 3 * 100  # the warm-up of each of the two starts
    assert cost["images"] == 2 * samples - 2 * lost
    rows = json.loads((run.path / "evaluation.json").read_text())["rows"]
    for row in rows:
        name = {"teacher": "teacher", "student alone": "alone-0"}.get(row["name"], f"distilled-{row['name']}-0")
        assert row["seeds"][0]["train_ms"] == pytest.approx(1000 * cost["seconds"][name] / cost["images"])
    assert [row["name"] for row in rows] == ["teacher", "student alone", "kd", "crd"]


def test_work_for_several_steps_is_charged_by_the_image() -> None:
    """What the teacher took for 40 images of later steps counts for the images of the steps that were timed."""
    clock = iter([0.0, 9.0, 10.0, 14.0, *(20.0 + i for i in range(20))])
    timer = StepTimer(["teacher", "student"], torch.device("cpu"))
    timer._clock = clock.__next__
    for _ in range(2):  # the first, of 9 s, fills caches
        with timer.apart("teacher", 40):
            pass
    for _ in range(5):  # two of them after the warm-up
        timer.mark()
        timer.mark("student")
        timer.end_step(10)
    assert timer.read() == {"seconds": {"teacher": 2.0, "student": 2.0}, "images": 20}
