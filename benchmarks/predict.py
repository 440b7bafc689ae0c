"""Classification of JPEG files: `understudy.predict` against a plain script.

    python benchmarks/predict.py [--images 1000] [--side 64] [--rounds 3]

The plain script opens each file with Pillow, resizes it, and has the same network in eval mode classify it, one image
at a time. Both have imported torch and loaded the network before the clock starts; ours lists the folder, checks each
file, and sorts the classes by probability. The rounds alternate; the figures are medians.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

import understudy
from understudy.models import InputContract, Network, build, load_network

CLASSES = tuple(str(number) for number in range(100))


def write_images(folder: Path, count: int, side: int) -> None:
    """JPEGs of smooth noise, which are about as large as photographs of their size."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)


def plain(network: Network, folder: Path) -> list[tuple[str, float]]:
    """What anyone would write."""
    _, height, width = network.contract.shape
    answers = []
    for path in sorted(folder.glob("*.jpg")):
        image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            probabilities = network(x).logits.softmax(1)[0]
        value, index = probabilities.max(0)
        answers.append((network.classes[int(index)], float(value)))
    return answers


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=64, help="of the files, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="cifar:resnet8")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, file = Path(place) / "images", Path(place) / "network.safetensors"
        folder.mkdir()
        write_images(folder, args.images, args.side)
        build(args.model, InputContract((3, 32, 32), (0.5,) * 3, (0.25,) * 3, CLASSES)).save(file)
        network = load_network(file).eval()
        sides = (lambda: plain(network, folder)), (lambda: understudy.predict(file, [folder], top=1))
        rounds = [[seconds(run) for run in sides] for _ in range(args.rounds + 1)]
        by_hand, package = (median(times) for times in zip(*rounds[1:], strict=True))
        agreeing = sum(a[0] == b.classes[0] for a, b in zip(*(run() for run in sides), strict=True))  # type: ignore[attr-defined]
    print(f"plain script {args.images / by_hand:8,.0f} images/s")
    print(f"ours         {args.images / package:8,.0f} images/s")
    print(f"ratio        {by_hand / package:8.2f}  ({agreeing:,} of {args.images:,} answers agree)")


if __name__ == "__main__":
    main()
