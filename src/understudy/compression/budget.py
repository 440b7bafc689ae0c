"""Time and limits as people write them, and how much of the time is spent."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from understudy.errors import UnderstudyError
from understudy.runs.collection import RunCollection

_LONGEST = 366 * 24 * 3600.0  # seconds
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "K": 10**3, "M": 10**6, "G": 10**9}
START_UP = 5.0
"""Seconds that a command takes before a clock is started: imports."""


def parse_budget(text: float | str) -> float:
    """Seconds of "90s", "30m", "2h", "1h30m" or a number of seconds.

    Raises:
        UnderstudyError: none of these, or zero.

    >>> parse_budget("1h30m"), parse_budget("90"), parse_budget(2.5)
    (5400.0, 90.0, 2.5)
    """
    if not isinstance(text, str):
        seconds = float(text)
    else:
        match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
        if not text.strip() or match is None:
            raise UnderstudyError(f"cannot parse budget {text!r}: write a time, as in 90s, 30m or 1h30m")
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not 0 < seconds <= _LONGEST:
        raise UnderstudyError(f"a budget must be longer than zero and at most a year, not {text}")
    return seconds


def parse_latency(text: float | str) -> float:
    """Milliseconds of "5ms", "0.01s" or a number of milliseconds.

    >>> parse_latency("5ms"), parse_latency("0.01s"), parse_latency(3)
    (5.0, 10.0, 3.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)?", str(text).strip())
    if match is None or not float(match[1]):
        raise UnderstudyError(f"cannot parse latency {text!r}: write a time, as in 5ms")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def parse_amount(text: float | str, what: str) -> float:
    """A number with a unit: "2MB", "500KB", "300M".

    >>> parse_amount("2MB", "size"), parse_amount("300M", "FLOPs")
    (2000000.0, 300000000.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B?)", str(text).strip().upper())
    if match is None or not float(match[1]):
        raise UnderstudyError(f"cannot parse {what} {text!r}: write a number with K, M or G, as in 2MB or 300M")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Spent:
    """The time that a compression has taken, over all resumptions; it is kept in its record after each stage.

    Attributes:
        before: seconds, when this process took it up.
        started: the clock at that moment.
    """

    found: RunCollection
    before: float
    started: float

    @classmethod
    def of(cls, found: RunCollection) -> Spent:
        return cls(found, found.record.get("spent", START_UP), time.monotonic())

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def of_stage(self, name: str) -> float:
        """The seconds that a stage took; 0 if it was not begun."""
        return self.found.record.get("stage_seconds", {}).get(name, 0.0)

    def note(self) -> None:
        self.found.note(spent=self.seconds)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Add what passes within the block to the time of a stage, also where it ends early."""
        begun = time.monotonic()
        try:
            yield
        finally:
            stages = self.found.record.get("stage_seconds", {})
            passed = stages.get(stage, 0.0) + time.monotonic() - begun
            self.found.note(spent=self.seconds, stage_seconds=stages | {stage: passed})
