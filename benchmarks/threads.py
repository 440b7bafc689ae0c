"""Training with one thread, with all, and with the number that a run chooses, on an idle and on a busy machine.

    python benchmarks/threads.py [--busy 0 1 5] [--rounds 3]

Two cases: 60 steps of ResNet-8 on images like CIFAR's in batches of 64, and 500 of 64-100-10 on digits in batches of
128. Other processes that compute without end make the machine busy. Each figure is the median time of the steps in
milliseconds; the rounds alternate, and each makes its choice anew, whose time is shown too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from understudy.config.recipe import TrainRecipe
from understudy.pipeline.device import make_fabric, usable_cores
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run_data import Overrides
from understudy.pipeline.threads import choose_threads, using_threads
from understudy.training import Loop


def cases() -> dict[str, tuple[TrainRecipe, object]]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2_000, 3, 32, 32), dtype=torch.uint8, generator=draw)
    random = images.numpy(), (torch.arange(2_000) % 100).numpy()
    fields: dict[str, Any] = {"accelerator": "cpu", "precision": "32"}
    return {
        "ResNet-8": (TrainRecipe(model="cifar:resnet8", batch_size=64, steps=60, **fields), random),
        "digits MLP": (TrainRecipe(model="mlp:100x1", batch_size=128, steps=500, **fields), "digits"),
    }


@contextmanager
def busy(count: int) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.5 if others else 0)
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def train(recipe: TrainRecipe, data: object, threads: int | None) -> tuple[float, float, int]:
    """Seconds of the steps and of the choice, and the number of threads."""
    pipeline, fabric = pipeline_of(recipe, Overrides(data=data)), make_fabric(recipe)
    batches = pipeline.batches(fabric.device)
    start = time.perf_counter()
    count = choose_threads(pipeline, fabric).count if threads is None else threads
    chosen = time.perf_counter()
    with using_threads(count):
        Loop(fabric, pipeline.members(), batches, recipe).run()
    return time.perf_counter() - chosen, chosen - start, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1, 5], help="numbers of other processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", nargs="*", choices=cases())
    args = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)  # it would be the choice
    torch.set_num_threads(most := usable_cores())
    for name, (recipe, data) in cases().items():
        if args.case and name not in args.case:
            continue
        train(recipe.model_copy(update={"steps": 3}), data, 1)
        for others in args.busy:
            with busy(others):
                rounds = [[train(recipe, data, count) for count in (1, most, None)] for _ in range(args.rounds)]
            one, all_, auto = (median(steps for steps, _, _ in side) * 1e3 for side in zip(*rounds, strict=True))
            choices = Counter(side[2][2] for side in rounds)
            ratio, took = auto / min(one, all_), median(choice for *_, (_, choice, _) in rounds) * 1e3
            print(f"{name}, {others} other processes: one thread {one:,.0f} ms, {most} {all_:,.0f}, chosen {auto:,.0f}")
            print(f"  {ratio:.2f} of the better; chose {dict(choices)} in {took:,.0f} ms", flush=True)


if __name__ == "__main__":
    main()
