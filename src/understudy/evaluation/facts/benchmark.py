"""Facts of a benchmark: one network's files side by side."""

from __future__ import annotations

from pydantic import Field

from understudy.evaluation.facts.base import Facts
from understudy.evaluation.facts.compression import FileFacts, OriginalFacts


class ThreadsFacts(Facts):
    """Latencies of one sample with a number of threads, of the network and its files in one interleaved benchmark."""

    threads: int
    latency_ms: dict[str, float]  # by format, and "original": medians
    latency_p90_ms: dict[str, float]


class BenchmarkFacts(Facts):
    """One network and its exported files: size, latency, accuracy, agreement."""

    subject = "benchmark"

    name: str
    data: str
    examples: int = Field(gt=0)  # in the test split
    hardware: str = ""
    command: list[str] = []
    versions: dict[str, str] = {}
    original: OriginalFacts
    files: list[FileFacts]
    timed: list[ThreadsFacts]
    left_out: dict[str, str] = {}  # why, by format
