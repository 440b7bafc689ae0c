"""Time of a forward pass on the CPU: the folded form of Big Transfer's R50x1 against timm's own net.

    python benchmarks/fold.py

Both have the same random weights and 1,000 classes, run in inference mode on one thread, and give the same logits.
timm's net is as it comes; it standardizes its weights in every pass. Times are the thread's own, so that other work on
the machine counts little. The rounds of one run alternate; each figure is a median, followed by the median of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import timm
import torch
from torch import Tensor, nn

from understudy.models import InputContract, build, fold

SIZES, BATCHES, CLASSES = (64, 128, 224), (1, 8, 32), tuple(map(str, range(1000)))
LIMIT = 20.0  # seconds for each case; there are never fewer than three rounds


def sides() -> tuple[nn.Module, nn.Module]:
    """timm's net, and the folded form of ours with its weights."""
    own = timm.create_model("resnetv2_50x1_bit", num_classes=len(CLASSES)).eval()
    network = build("bit:R50x1", InputContract((3, 128, 128), (0.5,) * 3, (0.5,) * 3, CLASSES))
    network.module.load_state_dict(own.state_dict())
    return own, fold(network).module


def seconds(net: nn.Module, x: Tensor) -> float:
    start = time.thread_time()
    net(x)
    return time.thread_time() - start


def compare(own: nn.Module, folded: nn.Module, size: int, batch: int, rounds: int) -> None:
    x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(folded(x), own(x), rtol=1e-4, atol=1e-4)  # and warm both up
    times: list[tuple[float, float]] = []
    end = time.thread_time() + LIMIT
    while len(times) < 3 or (len(times) < rounds and time.thread_time() < end):
        times.append((seconds(own, x), seconds(folded, x)))
    before, after = (median(side) * 1e3 for side in zip(*times, strict=True))
    ratio = median(a / b for a, b in times)
    print(f"  {size:4}  {batch:5}  {before:8.1f} ms  {after:8.1f} ms  {ratio:5.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="pixels of a side")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    own, folded = sides()
    print(f"one thread, medians of at most {args.rounds} interleaved rounds\n  size  batch        timm       folded")
    with torch.inference_mode():
        for size in args.sizes:
            for batch in args.batches:
                compare(own, folded, size, batch, args.rounds)


if __name__ == "__main__":
    main()
