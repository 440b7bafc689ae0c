"""A student's step on stored answers, against plain training on labels and against the teacher itself.

    python benchmarks/store.py           # all of it, about three minutes on two cores
    python benchmarks/store.py photos    # what the name of a part begins with

All with one thread, batches of 64, rounds in turn; the figures are medians over the steps of all rounds. Teachers have
random weights, as only their cost matters. CIFAR-100 is the parquet folder cifar100 in $UNDERSTUDY_DATA; photographs
are parts of the two that scikit-learn brings, JPEGs of 500x375.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image

import understudy
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.data import default_root
from understudy.models import load_network
from understudy.pipeline.base import Pipeline
from understudy.pipeline.distill import Distill
from understudy.pipeline.run import signals_read
from understudy.pipeline.targets import with_targets
from understudy.pipeline.train import Train
from understudy.signals import Batch
from understudy.teachers.encoding import Compact
from understudy.teachers.store import read_manifest
from understudy.training import Loop

BATCH, STEPS, WARM, ROUNDS, VIEWS = 64, 12, 2, 6, 4
CIFAR_IMAGES, IMAGENET_IMAGES = 50_000, 1_281_167
MACHINE: dict[str, Any] = {"accelerator": "cpu", "precision": "32", "threads": 1, "workers": 0}
CPU = torch.device("cpu")


class Clock:
    """Seconds between the ends of consecutive steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def on_train_start(self, step: int, steps: int) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, step: int, samples: int, metrics: Callable[[], list[dict[str, Any]]]) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now

    def on_epoch_end(self, metrics: list[dict[str, Any]]) -> None: ...
    def on_train_end(self) -> None: ...


class Side:
    """One way to train the student, step by step."""

    def __init__(self, pipeline: Pipeline[Any], *, keep: bool) -> None:
        self.pipeline, self.clock, self.fabric = pipeline, Clock(), Fabric(accelerator="cpu", devices=1)
        self.teacher = pipeline.teacher(CPU)
        self.batches = pipeline.batches(CPU)
        if keep:
            self.batches.keep_decoded(1_000_000, lambda line: None)

    def round(self) -> list[float]:
        """Seconds of the steps of a run of its own, without the first of them."""
        members = self.pipeline.members()
        if self.teacher is not None:
            self.teacher.watch(signals_read(members))
        clock = Clock()
        Loop(self.fabric, members, self.batches, self.pipeline.recipe, self.teacher, callbacks=[clock]).run()
        return clock.seconds[WARM:]


def compare(data: str, teacher: Path, targets: Path, student: str, options: Mapping[str, Any], *, keep: bool) -> None:
    """Milliseconds a step of the three ways, and the ratios to plain training."""
    shared = {"data": data, "batch_size": BATCH, "steps": STEPS, **MACHINE, **options}
    kd = {**shared, "student": student, "baseline": False}
    sides = [
        Side(Train(TrainRecipe(**shared, model=student)), keep=keep),
        Side(Distill(with_targets(DistillRecipe(**kd, targets=str(targets)))), keep=keep),
        Side(Distill(DistillRecipe(**kd, teacher=(str(teacher),))), keep=keep),
    ]
    for side in sides:
        side.round()
    times: list[list[float]] = [[] for _ in sides]
    for number in range(ROUNDS):
        times[number % 2] += sides[number % 2].round()  # both go first equally often
        times[1 - number % 2] += sides[1 - number % 2].round()
        if number % 4 == 0:  # it is the slowest by far
            times[2] += sides[2].round()
    plain, *others = (1e3 * median(each) for each in times)
    print(f"  plain training       {plain:8.2f} ms a step")
    for name, each in zip(("from the store", "with the teacher"), others, strict=True):
        print(f"  KD {name:<17} {each:8.2f} ms a step{each / plain:8.3f} x plain")


def labeled(data: str, teacher: Path, home: Path, options: Mapping[str, Any]) -> Path:
    """Make a store; prints what a view takes, beside a pass of the teacher alone."""

    def seconds(views: int) -> float:
        start = time.perf_counter()
        understudy.label(
            data, teacher, out=home / f"{views}-views", views=views, batch_size=BATCH, **MACHINE, **options
        )
        return time.perf_counter() - start

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        once, several = seconds(1), seconds(VIEWS)
    found = home / f"{VIEWS}-views"
    manifest, network = read_manifest(found), load_network(teacher).eval()
    inputs = torch.rand(BATCH, *manifest.shape)
    batch = Batch(torch.arange(BATCH), torch.arange(BATCH), inputs)
    passes = []
    with torch.inference_mode():
        for _ in range(12):
            start = time.perf_counter()
            network(batch)
            passes.append(time.perf_counter() - start)
    forward, view = median(passes) / BATCH, (several - once) / (VIEWS - 1) / manifest.samples
    print(f"  labeling             {1e3 * view:8.2f} ms a view{view / forward:8.2f} x the teacher's forward pass alone")
    print(f"  {manifest.view_bytes} bytes a view; {(found / 'logits.bin').stat().st_size:,} of {VIEWS} views of "
          f"{manifest.samples:,} samples")  # fmt: skip
    return found


def saved(data: str, model: str, file: Path, options: Mapping[str, Any]) -> Path:
    """A teacher with random weights for some data."""
    pipeline = Train(TrainRecipe(data=data, model=model, batch_size=BATCH, epochs=1, **MACHINE, **options))
    pipeline.student(pipeline.contract(), 0, several=False).save(file)
    return file


def cifar(home: Path) -> None:
    """A fiftieth of CIFAR-100, WRN-16-2 -> ResNet-8."""
    data = str(default_root() / "cifar100")
    options = {"fraction": 0.02, "augmentation": {"translate": 4, "flip": True}}
    teacher = saved(data, "cifar:wrn_16_2", home / "teacher.safetensors", options)
    print("CIFAR-100, WRN-16-2 -> ResNet-8")
    found = labeled(data, teacher, home, options)
    each = Compact.row_bytes((100,))
    for name, images in (("CIFAR-100", CIFAR_IMAGES), ("ImageNet", IMAGENET_IMAGES)):
        print(f"  50 views of all of {name}: {50 * images * each / 1e6:,.0f} MB")
    compare(data, teacher, found, "cifar:resnet8", options, keep=False)


def photos(home: Path) -> None:
    """Photographs that are decoded in each epoch."""
    of_photographs(home, keep=False)


def kept_photos(home: Path) -> None:
    """Photographs that are decoded once, as they are by default."""
    of_photographs(home, keep=True)


def of_photographs(home: Path, *, keep: bool) -> None:
    """A small CNN at 64 pixels, taught by one of three times its width."""
    folder, options = home / "photos", {"size": 64, "augmentation": {"crop_scale": 0.35, "flip": True}}
    photographs(folder, 160)
    teacher = saved(str(folder), "cnn:24-48-96", home / "teacher.safetensors", options)
    kind = "decoded once" if keep else "decoded in each epoch"
    print(f"photographs of 500x375 at 64 pixels, {kind}, cnn:24-48-96 -> cnn:8-16-32")
    found = labeled(str(folder), teacher, home, options)
    compare(str(folder), teacher, found, "cnn:8-16-32", options, keep=keep)


def photographs(folder: Path, count: int) -> None:
    """Random parts of real photographs in two folders, one for each class."""
    from sklearn.datasets import load_sample_images

    images = [Image.fromarray(image) for image in load_sample_images().images]
    random = np.random.default_rng(0)
    for number in range(count):
        image = images[number % len(images)]
        left, top = int(random.integers(image.width - 500 + 1)), int(random.integers(image.height - 375 + 1))
        place = folder / "train" / ("a", "b")[number % 2] / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.crop((left, top, left + 500, top + 375)).save(place, quality=90)


PARTS = (cifar, photos, kept_photos)


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for part in PARTS:
        if not names or any(part.__name__.startswith(name) for name in names):
            with tempfile.TemporaryDirectory() as home:
                part(Path(home))


if __name__ == "__main__":
    main(sys.argv[1:])
