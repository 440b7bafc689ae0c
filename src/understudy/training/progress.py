"""What is seen and kept while a run trains: metrics.jsonl, a bar or plain lines, a tracker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from understudy.errors import UnderstudyError
from understudy.files import write_whole

_LOG_EVERY = 100  # steps


class Metrics:
    """`metrics.jsonl`: appended to, and cut back to the checkpoint when a run is resumed."""

    def __init__(self, path: Path, tracker: str = "none") -> None:
        self.path = path
        self.loggers: list[Any] = []
        if tracker == "tensorboard":
            try:
                self.loggers.append(TensorBoardLogger(path.parent, name="tensorboard", version=""))
            except ModuleNotFoundError:
                raise UnderstudyError("tensorboard is not installed; pip install understudy[tensorboard]") from None

    def begin(self, step: int, steps: int) -> None:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_whole(self.path, "".join(f"{line}\n" for line in kept))

    def step(self, step: int, samples: int, rows: Callable[[], list[dict[str, Any]]]) -> None:
        if step % _LOG_EVERY == 0:
            self._write(rows())

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        self._write([row | {"end_of_epoch": True} for row in rows])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(row)}\n" for row in rows))
        for logger in self.loggers:
            for row in rows:
                prefix = f"{row['member']}/{row['part']}"
                values = {f"{prefix}/{k}": row[k] for k in ("loss", "accuracy", "agreement") if k in row}
                logger.log_metrics(values, step=row["step"])

    def end(self) -> None:
        for logger in self.loggers:
            logger.finalize("success")


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.fields['speed']:>9,.0f} images/s", style="dim")


class Screen:
    """A live bar on a terminal; a plain line an epoch, at most every few seconds, elsewhere."""

    def __init__(self, title: str, console: Console | None = None, every: float = 5.0) -> None:
        self.console = console or Console()
        self.title, self.every = title, every
        self.steps = self.seen = 0
        self.started = self.printed = time.monotonic()
        self.bar: Progress | None = None

    def begin(self, step: int, steps: int) -> None:
        self.first, self.steps = step, steps
        self.started = time.monotonic()
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[state]}"),
                _Speed(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=steps, completed=step, state="", speed=0.0)

    def step(self, step: int, samples: int, rows: Callable[[], list[dict[str, Any]]]) -> None:
        self.seen += samples
        now = time.monotonic()
        if self.bar is not None and now - self.printed >= 0.2:
            self.printed = now
            self.bar.update(self.task, completed=step, state=_state(rows()), speed=self._speed(now))

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        step = rows[0]["step"]
        if self.bar is None and (now - self.printed >= self.every or step == self.steps):
            self.printed = now
            left = (now - self.started) / max(step - self.first, 1) * (self.steps - step)
            epoch = f"{rows[0]['epoch']:.1f}".removesuffix(".0")
            self.console.print(
                f"{self.title}  epoch {epoch}  {_state(rows)}  {self._speed(now):,.0f} images/s  {clock(left)} left",
                highlight=False,
            )

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        elapsed = time.monotonic() - self.started
        self.console.print(f"{self.title}  {self.seen:,} images in {clock(elapsed)}", highlight=False)

    def _speed(self, now: float) -> float:
        return self.seen / max(now - self.started, 1e-9)


class Watchers:
    """Several watchers as one."""

    def __init__(self, *watchers: Any) -> None:
        self.watchers = watchers

    def begin(self, step: int, steps: int) -> None:
        for watcher in self.watchers:
            watcher.begin(step, steps)

    def step(self, step: int, samples: int, rows: Callable[[], list[dict[str, Any]]]) -> None:
        for watcher in self.watchers:
            watcher.step(step, samples, rows)

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        for watcher in self.watchers:
            watcher.epoch(rows)

    def end(self) -> None:
        for watcher in self.watchers:
            watcher.end()


def _state(rows: list[dict[str, Any]]) -> str:
    """Loss, accuracy and agreement, averaged over the seeds of each kind of member."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["part"] == "train":
            groups.setdefault(row["member"].rpartition("-")[0], []).append(row)
    parts = []
    for name, own in groups.items():
        text = [f"loss {_mean(own, 'loss'):.4f}"]
        if all("accuracy" in row for row in own):
            text.append(f"right {_mean(own, 'accuracy'):.2%}")
        if all("agreement" in row for row in own):
            text.append(f"agrees {_mean(own, 'agreement'):.2%}")
        parts.append(f"{name.removeprefix('distilled-')}: {' '.join(text)}")
    return "  ".join(parts)


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
