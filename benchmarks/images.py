"""What is decoded once: opening a set of small images again, later passes with workers, scoring several networks.

    python benchmarks/images.py

Prints seconds: the first time, then the median of five.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from understudy.data import RecordSource, Source, open_source
from understudy.data.augment import NO_AUGMENTATION
from understudy.data.cache import decoded
from understudy.data.loader import in_order
from understudy.data.workers import decode_batches

CPU = torch.device("cpu")


def write(folder: Path, count: int, sides: range, kind: str) -> Path:
    """Images of random pixels in two classes, with sides from a range in turn."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = sides[number % len(sides)]
        Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return folder


def report(what: str, work: Callable[[], object]) -> None:
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    print(f"{what:<60}{seconds[0]:8.2f}{median(seconds[1:]):8.2f}", flush=True)


def one_pass(source: Source, workers: int) -> None:
    for _ in decode_batches(source, [(torch.arange(len(source)), None)], NO_AUGMENTATION, workers, {}):
        pass


def scored(source: Source, networks: int) -> None:
    for _ in range(networks):
        for _ in in_order(source, 100, CPU):
            pass


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        os.environ["UNDERSTUDY_CACHE"] = f"{home}/cache"
        small = str(write(Path(home, "small"), 40_000, range(32, 33), "png"))
        photos = open_source(str(write(Path(home, "photos"), 300, range(300, 340), "jpg")), size=64).train
        assert isinstance(photos, RecordSource)
        print(f"{'':<60}{'first':>8}{'later':>8}")
        report("open 40,000 images of 32 pixels", lambda: open_source(small))
        report("a pass over 50 images with 2 workers", lambda: one_pass(photos.subset(torch.arange(50)), 2))
        report("240 photos for 6 networks, decoded for each", lambda: scored(photos, 6))
        report("240 photos for 6 networks, decoded once", lambda: scored(decoded(photos), 6))


if __name__ == "__main__":
    main()
