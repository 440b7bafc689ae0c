"""Images a second: batches of an array in memory against torchvision's per-image transforms in a DataLoader.

    python benchmarks/array_path.py

Both shift 32x32 color images by up to 4 pixels, mirror half of them and give float batches in 0..1. The
rounds alternate; each side's figure is its median.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from understudy.data import ArraySource
from understudy.data.augment import Augmentation
from understudy.data.loader import BatchLoader
from understudy.data.views import Views

IMAGES, BATCH, ROUNDS, PAD, WORKERS = 10_000, 128, 5, 4, 2


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images held in memory, varied one by one, as torchvision's CIFAR sets do it."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images, self.targets = images.permute(0, 2, 3, 1).contiguous().numpy(), targets.tolist()
        self.augment = transforms.Compose(
            [transforms.RandomCrop(32, padding=PAD), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return cast(Tensor, self.augment(Image.fromarray(self.images[index]))), self.targets[index]


def images_per_second(epoch: Callable[[], Iterable[Any]], inputs: Callable[[Any], Tensor]) -> float:
    start = time.perf_counter()
    count = sum(len(inputs(batch)) for batch in epoch())
    return count / (time.perf_counter() - start)


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=draw)
    targets = torch.randint(0, 10, (IMAGES,), generator=draw)
    classes = tuple("0123456789")
    source = ArraySource("random", classes, torch.arange(IMAGES), targets, (3, 32, 32), inputs=images)
    batches = BatchLoader(
        source, Views(Augmentation(translate=PAD, flip=True)), BATCH, seed=0, device=torch.device("cpu")
    )
    loader = DataLoader(PerImage(images, targets), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)

    ours: list[float] = []
    theirs: list[float] = []
    for number in range(ROUNDS + 1):  # the first round starts the workers and is not counted
        a = images_per_second(lambda number=number: batches.epoch(number), lambda batch: batch.inputs)
        b = images_per_second(lambda: loader, lambda pair: pair[0])
        if number:
            ours.append(a)
            theirs.append(b)
    print(f"array path  {median(ours):10,.0f} images/s, one process")
    print(f"torchvision {median(theirs):10,.0f} images/s, {WORKERS} workers")
    print(f"ratio       {median(ours) / median(theirs):10.1f}")


if __name__ == "__main__":
    main()
