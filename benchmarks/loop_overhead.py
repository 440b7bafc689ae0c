"""Time of a training step: the package's loop against a bare hand-written one.

    python benchmarks/loop_overhead.py

Both train the same layers on MNIST (random images where it is absent), drawn from an array in memory, with the same
fused AdamW on a linear schedule and the weights of convolutions channels last: 784-800-800-10 in batches of 256, and
the convolutions of `cnn:4-8` in batches of 64. Short rounds alternate, as a machine's speed drifts; times are medians,
and the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
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

STEPS, ROUNDS, LR = 150, 15, 1e-3


@dataclass(frozen=True)
class Case:
    """A net by its name in the package and as anyone would write it, and the size of its batches."""

    name: str
    batch: int
    layers: Callable[[], nn.Sequential]


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 800), nn.ReLU(True), nn.Linear(800, 800), nn.ReLU(True), nn.Linear(800, 10)
    )


def convolutions() -> nn.Sequential:
    def layer(channels: int, width: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]

    first, second = layer(1, 4) + layer(4, 4), layer(4, 8) + layer(8, 8)
    net = nn.Sequential(*first, nn.MaxPool2d(2), *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs


CASES = Case("mlp:800x2", 256, perceptron), Case("cnn:4-8", 64, convolutions)


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


def bare(case: Case, images: Tensor, targets: Tensor) -> Callable[[int], None]:
    """The loop anyone would write: gather, scale, forward, backward, step."""
    model = case.layers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS * (ROUNDS + 1))
    mean, std = images[:10_000].float().mean() / 255, images[:10_000].float().std() / 255

    def run(steps: int) -> None:
        model.train()
        for rows in torch.randperm(len(images))[: steps * case.batch].split(case.batch):
            inputs = (images[rows].float() / 255 - mean) / std
            loss = F.cross_entropy(model(inputs), targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

    return run


def ours(case: Case, images: Tensor, targets: Tensor) -> Callable[[int], None]:
    """The same training through the package's own loop, with its watch for stops and losses that are not finite."""
    classes = tuple(str(label) for label in range(10))
    source = ArraySource("mnist", classes, torch.arange(len(images)), targets, (1, 28, 28), inputs=images)
    recipe = OptimizerConfig(lr=LR, schedule="linear", warmup=0.0, weight_decay=0.0)
    network = build(case.name, contract_of(source))
    member = Member("model-0", "model", 0, Learner(network, CrossEntropy()), recipe, False)
    fabric = Fabric(accelerator="cpu", devices=1)

    def run(steps: int) -> None:
        part = source.subset(torch.arange(steps * case.batch))
        batches = BatchLoader(part, Views(), case.batch, 0, fabric.device)
        Loop(fabric, [member], batches, TrainRecipe(epochs=1, batch_size=case.batch, optimizer=recipe)).run()

    return run


def seconds(run: Callable[[int], None]) -> float:
    start = time.perf_counter()
    run(STEPS)
    return time.perf_counter() - start


def main() -> None:
    images, targets = data()
    for case in CASES:
        sides = bare(case, images, targets), ours(case, images, targets)
        for run in sides:
            run(20)
        rounds = [[seconds(run) for run in sides] for _ in range(ROUNDS)]
        by_hand, package = (median(times) / STEPS * 1e3 for times in zip(*rounds, strict=True))
        ratio = median(package / by_hand for by_hand, package in rounds)
        print(f"{case.name:10} bare loop {by_hand:7.2f} ms a step, our loop {package:7.2f} ms, ratio {ratio:6.3f}")


if __name__ == "__main__":
    main()
