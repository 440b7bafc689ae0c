"""What an engineer reaches by hand in the time that `understudy compress` takes: timm, torchvision and a loop.

    python benchmarks/by_hand.py flowers.zip --backbone tf_efficientnet_lite0 --weights lite0.safetensors \\
        --student mobilenetv3_small_050 --minutes 10 --size 128 --threads 1 --seed 0

Prints a line for each route: a logistic regression on the frozen backbone; the backbone fine-tuned for 35% of the time
and distilled into the student at T = 4 (weight 0.9, and 0.1 for the labels) for the rest; and the student fine-tuned or
trained alone in all the time. Images are decoded once. The schedules are cosines over the time itself.
"""

from __future__ import annotations

import argparse
import io
import math
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torchvision import datasets, transforms

Part = list[tuple[Image.Image, int]]
TEACHER, DISTILLED = 0.35, 0.95  # shares of the time after which each ends


def load(data: Path, classes: int | None) -> tuple[Part, Part]:
    """The training and the test images of a zip of class folders, or of a folder of parquet files."""
    if data.is_dir() and any(data.glob("train-*.parquet")):
        import pyarrow.parquet as pq

        parts = []
        for name in ("train", "test"):
            rows = [row for file in sorted(data.glob(f"{name}-*.parquet")) for row in pq.read_table(file).to_pylist()]
            images = ((row["image"]["bytes"], row["label"]) for row in rows)
            parts.append(
                [(Image.open(io.BytesIO(image)).convert("RGB"), y) for image, y in images if y < (classes or 10**6)]
            )
        return parts[0], parts[1]
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(data).extractall(folder)
        root = next(path for path in [Path(folder), *Path(folder).rglob("*")] if (path / "train").is_dir())
        test = next(root / name for name in ("test", "val") if (root / name).is_dir())
        train, held = datasets.ImageFolder(str(root / "train")), datasets.ImageFolder(str(test))
        return [train[i] for i in range(len(train))], [held[i] for i in range(len(held))]


class Views:
    """Training crops and test images of a size, normalized for a network."""

    def __init__(self, size: int, seed: int) -> None:
        crop = transforms.RandomResizedCrop(size, scale=(0.25, 1.0))
        self.train = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
        self.test = transforms.Compose(
            [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
        )  # fmt: skip
        self.rng = np.random.default_rng(seed)

    def batch(self, part: Part, count: int) -> tuple[Tensor, Tensor]:
        rows = [part[i] for i in self.rng.integers(len(part), size=count)]
        return torch.stack([self.train(image) for image, _ in rows]), torch.tensor([y for _, y in rows])  # type: ignore[misc]

    def all(self, part: Part) -> tuple[Tensor, Tensor]:
        return torch.stack([self.test(image) for image, _ in part]), torch.tensor([y for _, y in part])  # type: ignore[misc]


def normalized(network: nn.Module, x: Tensor) -> Tensor:
    config: Any = network.pretrained_cfg  # type: ignore[attr-defined]
    return network((x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1))


def accuracy(network: nn.Module, views: Views, test: Part) -> float:
    network.eval()
    x, y = views.all(test)
    with torch.inference_mode():
        return float((torch.cat([normalized(network, part).argmax(1) for part in x.split(64)]) == y).float().mean())


def fit(
    network: nn.Module, views: Views, train: Part, loss: Callable[[Tensor, Tensor, Tensor], Tensor], lr: float,
    seconds: float,
) -> int:  # fmt: skip
    """AdamW with a cosine over so many seconds; returns the number of images."""
    optimizer, start, images = torch.optim.AdamW(network.parameters(), lr, weight_decay=0.05), time.monotonic(), 0
    network.train()
    while (progress := (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, progress / 0.05 + 0.01) * 0.5 * (1 + math.cos(math.pi * progress))
        x, y = views.batch(train, 32)
        loss(x, normalized(network, x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        images += len(x)
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", type=Path, help="safetensors; default: timm downloads them")
    parser.add_argument("--student", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--classes", type=int, help="of parquet files: the first so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--routes", nargs="*", default=["probe", "kd", "alone"])
    typed = parser.parse_args()
    torch.set_num_threads(typed.threads)
    torch.manual_seed(typed.seed)
    begin, seconds = time.monotonic(), 60 * typed.minutes
    train, test = load(typed.data, typed.classes)
    classes, views = len({y for _, y in train}), Views(typed.size, typed.seed)

    def backbone(count: int) -> nn.Module:
        if typed.weights is None:
            return timm.create_model(typed.backbone, pretrained=True, num_classes=count)
        network = timm.create_model(typed.backbone, num_classes=count)
        state = {k: v for k, v in load_file(typed.weights).items() if not k.startswith(("classifier", "head", "fc"))}
        network.load_state_dict(state, strict=False)
        return network

    def report(route: str, network: nn.Module, images: int) -> None:
        score = 100 * accuracy(network, views, test)
        print(f"{route:<28} {score:6.2f}%  {images:>7,} images  {time.monotonic() - begin:5.0f} s", flush=True)

    if "probe" in typed.routes:
        body = backbone(0).eval()
        with torch.inference_mode():
            embedded = [
                torch.cat([normalized(body, x) for x in views.all(part)[0].split(64)]).numpy() for part in (train, test)
            ]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(embedded[0], [y for _, y in train])
        score = 100 * model.score(embedded[1], [y for _, y in test])
        print(f"{'frozen + logistic regression':<28} {score:6.2f}%  {len(train):>7,} images  "
              f"{time.monotonic() - begin:5.0f} s", flush=True)  # fmt: skip
    if "kd" in typed.routes:
        begin = time.monotonic()
        teacher = backbone(classes)
        labels = lambda x, logits, y: F.cross_entropy(logits, y)  # noqa: E731
        images = fit(teacher, views, train, labels, 5e-4, TEACHER * seconds)
        report("backbone fine-tuned", teacher, images)
        student, t = timm.create_model(typed.student, num_classes=classes), 4.0

        def soft(x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
            with torch.inference_mode():
                answers = normalized(teacher.eval(), x)
            kl = F.kl_div(
                (logits / t).log_softmax(1), (answers / t).log_softmax(1), reduction="batchmean", log_target=True
            )
            return 0.9 * t * t * kl + 0.1 * F.cross_entropy(logits, y)

        left = DISTILLED * seconds - (time.monotonic() - begin)
        images = fit(student, views, train, soft, 2e-3, left)
        report("distilled, T = 4", student, images)
    if "alone" in typed.routes:
        begin = time.monotonic()
        student = timm.create_model(typed.student, num_classes=classes)
        labels = lambda x, logits, y: F.cross_entropy(logits, y)  # noqa: E731
        images = fit(student, views, train, labels, 2e-3, DISTILLED * seconds)
        report("student alone", student, images)


if __name__ == "__main__":
    main()
