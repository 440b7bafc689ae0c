"""The way of images to the step: against torchvision's transforms in a DataLoader, and what is decoded once.

    python benchmarks/images.py           # all of it, about four minutes on two cores
    python benchmarks/images.py photos    # what the name of a part begins with

Photographs are parts of the two that scikit-learn brings, as JPEGs of quality 90. Both sides take random crops of 8%
of the area and more, resized and flipped, and give float batches in 0..1, in one thread without workers. Their rounds
alternate; the figures are medians.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from understudy.data import ArraySource, RecordSource, Source, open_source
from understudy.data.augment import NO_AUGMENTATION, Augmentation
from understudy.data.cache import decoded
from understudy.data.crop import center_crop
from understudy.data.decoding import Decoding
from understudy.data.formats.records import FileRecord
from understudy.data.loader import BatchLoader, in_order
from understudy.data.views import Views
from understudy.data.workers import decode_batches

CPU = torch.device("cpu")
BATCH, ROUNDS = 64, 5
CROPS = Augmentation(crop_scale=0.08, flip=True)


def photographs(folder: Path, count: int, width: int, height: int) -> RecordSource:
    """Parts of real photographs, enlarged where they are too small, as JPEGs."""
    from sklearn.datasets import load_sample_images  # not at the top, which workers import too

    images = [Image.fromarray(image) for image in load_sample_images().images]
    random = np.random.default_rng(0)
    for number in range(count):
        image = images[number % len(images)]
        by = min(1.0, image.width / width, image.height / height)
        w, h = round(width * by), round(height * by)
        left, top = int(random.integers(image.width - w + 1)), int(random.integers(image.height - h + 1))
        part = image.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
        folder.mkdir(parents=True, exist_ok=True)
        part.save(folder / f"{number}.jpg", quality=90)
    records = [FileRecord(str(folder), f"{number}.jpg") for number in range(count)]
    ids = torch.arange(count)
    return RecordSource("photographs", ("a", "b"), ids, ids % 2, (3, 224, 224), records=records)


class Peer(Dataset[tuple[Tensor, int]]):
    """What a training script does with torchvision: images decoded each time, or kept as they are decoded."""

    def __init__(self, source: RecordSource, size: int, *, kept: bool) -> None:
        self.paths = [Path(record.root, record.relative) for record in source.records if isinstance(record, FileRecord)]
        self.kept = [self.load(path) for path in self.paths] if kept else []
        from torchvision import transforms

        self.transform = transforms.Compose(
            [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    @staticmethod
    def load(path: Path) -> Image.Image:
        with open(path, "rb") as file:
            return Image.open(file).convert("RGB")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = self.kept[row] if self.kept else self.load(self.paths[row])
        return cast(Tensor, self.transform(image)), row % 2


def compare(what: str, ours: BatchLoader, theirs: Peer) -> None:
    """Images a second of both sides, by turns."""
    loader = DataLoader(theirs, BATCH, shuffle=True)
    speeds: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):  # the first round is not counted
        for side, batches in enumerate((ours.epoch(number), loader)):
            started, count = time.perf_counter(), 0
            for batch in batches:
                count += len(batch[0] if isinstance(batch, list) else batch)
            if number:
                speeds[side].append(count / (time.perf_counter() - started))
    a, b = map(median, speeds)
    print(f"{what:<58}{a:9,.0f}{b:9,.0f}{a / b:8.2f}x", flush=True)


def loader_of(source: Source, *, keep: bool = False, augmentation: Augmentation = CROPS) -> BatchLoader:
    batches = BatchLoader(source, Views(augmentation), BATCH, 0, CPU)
    if keep:
        batches.keep_decoded(1_000_000, lambda line: print(f"  ({line})"))
    return batches


def photos(home: Path) -> None:
    """Photographs of 500 x 375 pixels, random crops at 224."""
    source = photographs(home / "photos", 192, 500, 375)
    compare("photos, decoded in each epoch", loader_of(source), Peer(source, 224, kept=False))
    compare("photos, both keep decoded images", loader_of(source, keep=True), Peer(source, 224, kept=True))
    compare("photos, as they are by default", loader_of(source, keep=True), Peer(source, 224, kept=False))


def large(home: Path) -> None:
    """JPEGs of 1600 x 1200 pixels, and how far those decoded at half their size are from the whole, when tested."""
    source = photographs(home / "large", 64, 1600, 1200)
    compare("1600 x 1200, decoded in each epoch", loader_of(source), Peer(source, 224, kept=False))
    compare("1600 x 1200, both keep decoded images", loader_of(source, keep=True), Peer(source, 224, kept=True))
    halved = [np.asarray(image, np.int64) for image in tested(source, 224)]
    whole = [np.asarray(image, np.int64) for image in tested(source, 10_000)]
    differences = np.abs(np.stack(halved) - np.stack(whole))
    print(
        f"  (tested at 224: {differences.mean():.2f} grey levels from full decoding in the mean, "
        f"{(differences <= 1).mean():.1%} of the pixels within one, {differences.max()} at most)"
    )


def tested(source: RecordSource, size: int) -> Iterator[Image.Image]:
    """The squares that a network of 224 pixels is tested on, if images are decoded for crops of `size`."""
    decoding = Decoding(source.records[:16], 3, size)
    return (center_crop(decoding.image(row), 224) for row in range(len(decoding)))


def small(home: Path) -> None:
    """Images of 64 x 64 pixels that both sides keep decoded, as records and as an array."""
    records = replace(photographs(home / "small", 2_000, 64, 64), shape=(3, 64, 64))
    array = decoded(records)
    assert isinstance(array, ArraySource)
    peer = Peer(records, 64, kept=True)
    compare("64 x 64, records kept decoded", loader_of(records, keep=True), peer)
    compare("64 x 64, an array", loader_of(array), peer)


def cores(home: Path) -> None:
    """What one core gives; what eight would."""
    source = photographs(home / "photos", 192, 500, 375)
    for what, batches in (("decoding", loader_of(source)), ("kept", loader_of(source, keep=True))):
        seconds = timed(lambda batches=batches: [len(batch) for batch in batches.epoch(0)])
        speed = len(source) / median(seconds[1:])
        print(f"{'one core at 224 pixels, ' + what:<58}{speed:9,.0f} images/s; eight: {8 * speed:,.0f}", flush=True)


def timed(work: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def once(home: Path) -> None:
    """Seconds for the first time and later: a set opened again, later passes with workers, several networks scored."""

    def report(what: str, work: Callable[[], object]) -> None:
        seconds = timed(work)
        print(f"{what:<58}{seconds[0]:8.2f}s{median(seconds[1:]):8.2f}s", flush=True)

    print(f"{'seconds':<58}{'first':>9}{'later':>9}")
    some = photographs(home / "fifty", 50, 320, 300)
    report("a pass over 50 photos with 2 workers, started anew", lambda: one_pass(some))
    batches = BatchLoader(some, Views(CROPS), 50, 0, CPU, workers=2)
    report("an epoch of 50 photos with 2 workers that stay", lambda: list(batches.epoch(0)))
    scored = photographs(home / "scored", 240, 320, 300)
    report("240 photos for 6 networks, decoded for each", lambda: score(scored, 6))
    report("240 photos for 6 networks, decoded once", lambda: score(decoded(scored), 6))
    random = np.random.default_rng(0)
    for number in range(40_000):
        path = home / "many" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    report("open 40,000 images of 32 pixels", lambda: open_source(str(home / "many")))


def one_pass(source: Source) -> None:
    for _ in decode_batches(source, [(torch.arange(len(source)), None)], NO_AUGMENTATION, 2, {}):
        pass


def score(source: Source, networks: int) -> None:
    for _ in range(networks):
        for _ in in_order(source, 100, CPU):
            pass


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    print(f"{'images a second':<58}{'ours':>9}{'theirs':>9}{'ratio':>9}")
    for part in (photos, large, small, cores, once):
        if not names or any(part.__name__.startswith(name) for name in names):
            with tempfile.TemporaryDirectory() as home:
                os.environ["UNDERSTUDY_CACHE"] = f"{home}/cache"
                part(Path(home))


if __name__ == "__main__":
    main(sys.argv[1:])
