"""Logging of training: a metrics file, progress on the console, and trackers such as TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from understudy.escaping import printable
from understudy.files import write_whole
from understudy.terminal import Terminal
from understudy.training.trackers import TRACKERS

_LOG_EVERY = 100  # steps
_REFRESH_EVERY = 0.2  # seconds

Row = dict[str, Any]
"""Metrics of one member: "step", "epoch", "lr", "member", "part" ("train", "validation", "held out"), "loss", ..."""


class Callback(Protocol):
    """Hooks that the loop calls on the first rank. `metrics` is a function, as computing them synchronizes a GPU."""

    def on_train_start(self, step: int, steps: int) -> None: ...
    def on_step_end(self, step: int, samples: int, metrics: Callable[[], list[Row]]) -> None: ...
    def on_epoch_end(self, metrics: list[Row]) -> None: ...
    def on_train_end(self) -> None: ...


class MetricsFile:
    """Appends rows to `metrics.jsonl`; a resumed run first drops the rows after its checkpoint.

    A tracker gets the same metrics.
    """

    def __init__(self, path: Path, tracker: str = "none") -> None:
        self.path = path
        self.trackers = [TRACKERS[tracker](path.parent)] if tracker != "none" else []

    def on_train_start(self, step: int, steps: int) -> None:
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_whole(self.path, "".join(f"{json.dumps(row)}\n" for row in kept))

    def on_step_end(self, step: int, samples: int, metrics: Callable[[], list[Row]]) -> None:
        if step % _LOG_EVERY == 0:
            self._write(metrics())

    def on_epoch_end(self, metrics: list[Row]) -> None:
        self._write([row | {"end_of_epoch": True} for row in metrics])

    def on_train_end(self) -> None:
        for tracker in self.trackers:
            tracker.finalize("success")

    def _write(self, rows: list[Row]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(row)}\n" for row in rows))
        for tracker in self.trackers:
            for row in rows:
                prefix = f"{row['member']}/{row['part']}"
                values = {f"{prefix}/{k}": row[k] for k in ("loss", "accuracy", "agreement") if k in row}
                tracker.log_metrics(values, step=row["step"])


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics file; none where there is no file. A line that was cut, as by a full disk, is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


class ConsoleLogger:
    """A progress bar on a terminal; elsewhere a line per epoch, or other `unit`, at most one in `every` seconds."""

    def __init__(self, title: str, terminal: Terminal | None = None, every: float = 5.0, unit: str = "epoch") -> None:
        self.terminal = terminal or Terminal()
        self.title, self.every, self.unit = title, every, unit
        self.first_step = self.steps = self.images = 0
        self.started = self.printed = time.monotonic()
        self.bar: Progress | None = None

    def on_train_start(self, step: int, steps: int) -> None:
        self.first_step, self.steps = step, steps
        self.started = time.monotonic()
        if self.terminal.is_terminal:
            speed = TextColumn("{task.fields[speed]:>9,.0f} images/s", style="dim")
            columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
                       TextColumn("{task.fields[metrics]}", markup=False), speed, TimeRemainingColumn())  # fmt: skip
            self.bar = Progress(*columns, console=self.terminal, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(printable(self.title), total=steps, completed=step, metrics="", speed=0.0)

    def on_step_end(self, step: int, samples: int, metrics: Callable[[], list[Row]]) -> None:
        self.images += samples
        now = time.monotonic()
        if self.bar is not None and now - self.printed >= _REFRESH_EVERY:
            self.printed = now
            self.bar.update(self.task, completed=step, metrics=summarize(metrics()), speed=self._speed(now))

    def on_epoch_end(self, metrics: list[Row]) -> None:
        now = time.monotonic()
        step = metrics[0]["step"]
        if self.bar is None and (now - self.printed >= self.every or step == self.steps):
            self.printed = now
            left = (now - self.started) / max(step - self.first_step, 1) * (self.steps - step)
            epoch = f"{metrics[0]['epoch']:.1f}".removesuffix(".0")
            speed = f"{self._speed(now):,.0f} images/s  {clock(left)} left"
            shown = (f"{self.unit} {epoch}", summarize(metrics), speed)
            self.terminal.say("  ".join([self.title, *filter(None, shown)]))

    def on_train_end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        elapsed = time.monotonic() - self.started
        self.terminal.say(f"{self.title}  {self.images:,} images in {clock(elapsed)}")

    def _speed(self, now: float) -> float:
        return self.images / max(now - self.started, 1e-9)


def summarize(rows: list[Row]) -> str:
    """Training loss, accuracy and agreement, averaged over the seeds of each kind of member.

    >>> rows = [{"part": "train", "member": f"distilled-kd-{i}", "loss": i / 10, "accuracy": 0.81} for i in (1, 2)]
    >>> summarize(rows)
    'kd: loss 0.1500 acc 81.0%'
    >>> held = {"part": "held out", "member": "distilled-0", "knn": 0.5, "neighbors": 0.2, "rank": 7.3, "gap": 0.31}
    >>> summarize([{"part": "train", "member": "distilled-0", "loss": 0.1}, held])
    'distilled: loss 0.1000 k-NN 50.0% rank 7 gap closed 31%'
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["part"] == "train":
            groups.setdefault(row["member"].rpartition("-")[0], []).append(row)
    parts = []
    for name, group in groups.items():
        text = [f"loss {_mean(group, 'loss'):.4f}"]
        for key, label in (("accuracy", "acc"), ("agreement", "agreement")):
            if all(key in row for row in group):
                text.append(f"{label} {_mean(group, key):.1%}")
        held = [row for row in rows if row["part"] == "held out" and row["member"].rpartition("-")[0] == name]
        if held:
            key, label = ("knn", "k-NN") if "knn" in held[0] else ("neighbors", "neighbors")
            text += [f"{label} {_mean(held, key):.1%}", f"rank {_mean(held, 'rank'):.0f}"]
            if all(row["gap"] is not None for row in held):
                text.append(f"gap closed {_mean(held, 'gap'):.0%}")
        parts.append(f"{name.removeprefix('distilled-')}: {' '.join(text)}")
    return "  ".join(parts)


def _mean(rows: list[Row], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def clock(seconds: float) -> str:
    """A duration for people to read.

    >>> clock(12.34), clock(754)
    ('12.3 s', '12 min 34 s')
    """
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
