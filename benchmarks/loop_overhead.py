"""Time of a training step: the package's loop against a bare hand-written one.

    python benchmarks/loop_overhead.py

Both train 784-800-800-10 on MNIST (random images where it is absent) in batches of 256, drawn from an array
in memory, with AdamW on a linear schedule. The rounds alternate; each side's figure is its median.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from understudy.config.options import OptimizerConfig
from understudy.config.recipe import TrainRecipe
from understudy.data import ArraySource, open_source
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.models import build
from understudy.objectives import CrossEntropy
from understudy.pipeline.modality import contract_of
from understudy.training import Learner, Loop, Member

BATCH, STEPS, ROUNDS, LR = 256, 235, 7, 1e-3


def data() -> tuple[Tensor, Tensor]:
    """MNIST's (60000, 1, 28, 28) uint8 images and their targets, or random ones of the same shape."""
    try:
        train = open_source("mnist").train
    except UnderstudyError:
        train = None
    if isinstance(train, ArraySource) and train.targets is not None:
        return train.inputs, train.targets
    print("MNIST is not there; random images take its place")
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8, generator=draw)
    return images, torch.randint(0, 10, (60_000,), generator=draw)


def bare(images: Tensor, targets: Tensor) -> Callable[[int], None]:
    """The loop anyone would write: gather, scale, forward, backward, step."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 800), nn.ReLU(), nn.Linear(800, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS * (ROUNDS + 1))
    mean, std = images[:10_000].float().mean() / 255, images[:10_000].float().std() / 255

    def run(steps: int) -> None:
        model.train()
        for rows in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            inputs = (images[rows].float() / 255 - mean) / std
            loss = F.cross_entropy(model(inputs), targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

    return run


def ours(images: Tensor, targets: Tensor) -> Callable[[int], None]:
    """The same training through the package's own loop, with its watch for stops and losses that are not finite."""
    classes = tuple(str(label) for label in range(10))
    source = ArraySource("mnist", classes, torch.arange(len(images)), targets, (1, 28, 28), inputs=images)
    recipe = OptimizerConfig(lr=LR, schedule="linear", warmup=0.0)
    network = build("mlp:800x2", contract_of(source))
    member = Member("model-0", "model", 0, Learner(network, CrossEntropy()), recipe, False)
    fabric = Fabric(accelerator="cpu", devices=1)

    def run(steps: int) -> None:
        part = source.subset(torch.arange(min(steps * BATCH, len(source))))
        batches = BatchLoader(part, Views(), BATCH, 0, fabric.device)
        Loop(fabric, [member], batches, TrainRecipe(epochs=1, batch_size=BATCH, optimizer=recipe)).run()

    return run


def seconds(run: Callable[[int], None]) -> float:
    start = time.perf_counter()
    run(STEPS)
    return time.perf_counter() - start


def main() -> None:
    images, targets = data()
    sides = bare(images, targets), ours(images, targets)
    for run in sides:
        run(20)
    rounds = [[seconds(run) for run in sides] for _ in range(ROUNDS)]
    by_hand, package = (median(times) / STEPS * 1e3 for times in zip(*rounds, strict=True))
    print(f"bare loop {by_hand:7.2f} ms a step")
    print(f"our loop  {package:7.2f} ms a step")
    print(f"ratio     {package / by_hand:7.3f}")


if __name__ == "__main__":
    main()
