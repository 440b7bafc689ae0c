"""Time of forward passes and training steps with glibc's allocator as it is, and as runs here tune it.

    python benchmarks/memory.py [NET ...]

On Linux, one thread. As it is, glibc gives large blocks back to the system, and each pass has their pages mapped and
zeroed again. Each side is a process of its own; the rounds alternate, and each figure is a median over them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from understudy.models import InputContract, build, to_channels_last
from understudy.pipeline.device import keep_freed_memory

BATCH, PIXELS, CLASSES, ROUNDS, PASSES = 32, 128, 20, 3, 8
NETS = ("timm:tf_efficientnet_lite0", "timm:resnet18", "timm:mobilenetv3_small_050")
SIDES = ("as it is", "tuned")


def seconds(spec: str, side: str) -> tuple[float, float]:
    """Median seconds of a forward pass without gradients, and of one with the backward pass."""
    if side == "tuned":
        keep_freed_memory()
    torch.set_num_threads(1)
    contract = InputContract((3, PIXELS, PIXELS), (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(CLASSES))))
    network, images = build(spec, contract), torch.rand(BATCH, 3, PIXELS, PIXELS)
    to_channels_last(network, torch.device("cpu"))

    def forward() -> None:
        with torch.inference_mode():
            network.module(images)

    def both() -> None:
        network.module(images).square().mean().backward()
        network.zero_grad()

    network.eval()
    passed = timed(forward)
    network.train()
    return passed, timed(both)


def timed(call: Callable[[], None]) -> float:
    call()
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--side":
        print(*seconds(sys.argv[3], sys.argv[2]))
        return
    print(f"ms for {BATCH} images of {PIXELS} pixels\n{'net':30}{'':12}{SIDES[0]:>10}{SIDES[1]:>10}{'gain':>8}")
    for spec in sys.argv[1:] or NETS:
        found: dict[str, list[tuple[float, ...]]] = {side: [] for side in SIDES}
        for _ in range(ROUNDS):
            for side in SIDES:
                command = [sys.executable, __file__, "--side", side, spec]
                line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found[side].append(tuple(map(float, line.split())))
        for k, what in enumerate(("forward", "training")):
            plain, tuned = (1e3 * median(one[k] for one in found[side]) for side in SIDES)
            print(f"{spec if not k else '':30}{what:12}{plain:>10.0f}{tuned:>10.0f}{plain / tuned:>7.2f}x")


if __name__ == "__main__":
    main()
