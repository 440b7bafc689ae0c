"""What a training step takes on the GPU at hand, in at most eight minutes; each figure is printed when it is there.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --quick

Launches and waits are per step, from torch.profiler. A step is of WRN-16-2 as the teacher and of 1, 7 and 21 students
at B = 64 on 50,000 random images of 32x32 in memory, views and teacher included: "eager" launches every kernel; "ahead"
makes views and the teacher's answers for 16 steps at once; "graphed" replays the students' updates as one graph as
well; "compiled" also compiles the students. On a CPU there are the first two. The input path decodes JPEG files of
500x375 to random crops of 224x224. Last, as far as the time allows, a ResNet-20 teaches a ResNet-8 on CIFAR-100 (where
it is in the data folder). --quick tries the code, and its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch.profiler import ProfilerActivity, profile

import understudy
from understudy.config.options import OptimizerConfig
from understudy.data import ArraySource, open_source
from understudy.data.augment import Augmentation
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.models import InputContract, build
from understudy.objectives import BuildContext
from understudy.pipeline.loss import compose, parse_term
from understudy.signals import Batch
from understudy.teachers import Teacher
from understudy.training import Learner, Member
from understudy.training.ahead import AnswersAhead
from understudy.training.compilation import compiled
from understudy.training.graph import GraphedStep, Record, cuda_graph
from understudy.training.step import EagerStep
from understudy.training.timing import StepTimer

CLASSES, AHEAD = 100, 16
SGD = OptimizerConfig(name="sgd", lr=0.05, weight_decay=5e-4)
MODES = "eager", "ahead", "graphed", "compiled"


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    samples: int
    batch: int
    members: tuple[int, ...]
    modes: tuple[str, ...]
    students: tuple[str, ...]
    warmup: int
    steps: int
    photos: int
    minutes: float


FULL = Scale(50_000, 64, (1, 7, 21), MODES, ("cifar:resnet8", "cifar:resnet8x4"), 20, 100, 2_000, 8.0)
QUICK = Scale(40, 4, (2,), MODES[:2], ("cifar:resnet8",), 1, 1, 4, 0.0)


class Cohort:
    """Students of one method side by side with their teacher, ready to take steps in the block `prepared`."""

    def __init__(
        self, fabric: Fabric, scale: Scale, student: str, method: str, members: int, mode: str,
        record: Record = cuda_graph,
    ) -> None:  # fmt: skip
        device, draw = fabric.device, torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (scale.samples, 3, 32, 32), dtype=torch.uint8, generator=draw)
        ids, classes = torch.arange(scale.samples), tuple(map(str, range(CLASSES)))
        source = ArraySource("random", classes, ids, ids % CLASSES, (3, 32, 32), inputs=images)
        contract = InputContract((3, 32, 32), (0.5,) * 3, (0.25,) * 3, classes)
        teacher = Teacher(build("cifar:wrn_16_2", contract), device)
        cohort = []
        for number in range(members):
            network = build(student, contract, seed=number)
            context = BuildContext(network.shapes(), teacher.network.shapes(), source.ids, source.targets)
            objective = compose([parse_term(name) for name in (*method.split("+"), "ce")], [context], number)
            cohort.append(Member(f"{method}-{number}", "distilled", number, Learner(network, objective), SGD, True))
            cohort[-1].setup(fabric)
            cohort[-1].learner.train()
        teacher.watch({name for member in cohort for name in member.learner.objective.needs.teacher} - {"logits"})
        together = 1 if mode == "eager" else AHEAD
        views = Views(Augmentation(translate=4, flip=True))
        loader = BatchLoader(source, views, scale.batch, 0, device, total_steps=10**6, together=together)
        timer = StepTimer(["teacher", *(member.name for member in cohort)], torch.device("cpu"))
        ahead = AnswersAhead(fabric, loader, teacher, together, timer)
        eager = EagerStep(fabric, cohort, timer, ahead)
        self.update = GraphedStep(eager, record, eager_steps=3) if mode in ("graphed", "compiled") else eager
        self.batches: Iterator[Batch] = ahead.stream(0, 10**6)
        networks = [member.learner.network for member in cohort]
        self.prepared = compiled(networks) if mode == "compiled" else nullcontext()
        self.device, self.batch, self.number = device, scale.batch, 0

    def steps(self, count: int) -> float:
        """Milliseconds of each of some steps."""
        wait(self.device)
        started = time.perf_counter()
        for _ in range(count):
            self.update(next(self.batches), self.batch, self.number, 0.05)
            self.number += 1
        wait(self.device)
        return (time.perf_counter() - started) / count * 1e3


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def counts(cohort: Cohort, steps: int) -> str:
    """Launches and waits of a step."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        cohort.steps(steps)
    calls = Counter({event.key: event.count for event in profiler.key_averages()})
    launches = sum(n for name, n in calls.items() if "LaunchKernel" in name or "GraphLaunch" in name)
    waits = sum(n for name, n in calls.items() if name.startswith("cuda") and "Synchronize" in name)
    return f"{launches / steps:8.1f} launches {max(waits - 2, 0) / steps:6.2f} waits"  # two are at the ends


def measure_steps(fabric: Fabric, scale: Scale, deadline: float) -> None:
    for student in scale.students:
        for method in ("kd", "crd+kd"):
            for members in scale.members:
                for mode in scale.modes:
                    if time.monotonic() > deadline:
                        print("no time for the other steps", flush=True)
                        return
                    torch.manual_seed(0)
                    cohort = Cohort(fabric, scale, student, method, members, mode)
                    with cohort.prepared:
                        cohort.steps(scale.warmup)
                        ms = cohort.steps(scale.steps)
                        calls = counts(cohort, scale.steps)
                    what = f"{student:16} {method:7} {members:3} students {mode:9}"
                    print(f"{what} {ms:9.2f} ms {ms / members:8.2f} each {calls}", flush=True)


def measure_input(fabric: Fabric, scale: Scale, folder: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(scale.photos):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    source, workers = open_source(folder, size=224).train, min(os.cpu_count() or 1, 8)
    views = Views(Augmentation(crop_scale=0.25, flip=True))
    loader = BatchLoader(source, views, min(scale.batch, len(source)), 0, fabric.device, workers=workers)
    started, images = time.perf_counter(), 0
    for epoch in range(2):  # the first starts the workers
        started, images = time.perf_counter(), 0
        for batch in loader.epoch(epoch):
            images += len(batch)
        wait(fabric.device)
    speed = images / (time.perf_counter() - started)
    print(f"input path at 224 pixels, {workers} workers: {speed:,.0f} images/s", flush=True)


def train_pair(device: torch.device, quick: bool, seconds: float, folder: Path) -> None:
    """A teacher and a student for as many epochs as the time allows, judged by a first epoch."""
    data, teacher, student = "cifar100", "cifar:resnet20", "cifar:resnet8"
    if quick:
        data, teacher, student = "digits", "cnn:4-8", "cnn:4"
    options = {"accelerator": device.type, "optimizer": "sgd", "lr": 0.05, "workers": 0}
    started = time.monotonic()
    try:
        understudy.train(data, teacher, epochs=1, run=folder / "trial", **options)
    except UnderstudyError as error:
        print(f"no real pair: {error}")
        return
    epochs = max(1, int(seconds / (time.monotonic() - started) / 4))
    first = understudy.train(data, teacher, epochs=epochs, run=folder / "teacher", **options)
    began = time.monotonic()
    run = understudy.distill(data, first.path, student, epochs=epochs, run=folder / "student", **options)
    took = time.monotonic() - began
    last = {row["member"]: row for row in run.epochs() if row["part"] == "train"}
    shown = ", ".join(f"{name} {row['accuracy']:.1%} in training" for name, row in last.items())
    print(f"{teacher} -> {student} on {data}, {epochs} epochs: {took:.0f} s; {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="try the code, on few samples and in a few steps")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("this measures a GPU, and torch finds none here; try the code by --device cpu --quick")
    started, scale = time.monotonic(), QUICK if args.quick else FULL
    fabric = Fabric(accelerator=args.device, devices=1, precision="bf16-mixed" if args.device == "cuda" else "32-true")
    name = torch.cuda.get_device_name() if args.device == "cuda" else "a CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        measure_input(fabric, scale, Path(folder) / "photos")
        measure_steps(fabric, scale, time.monotonic() + (60 * scale.minutes * 0.6 if scale.minutes else 600))
        left = 60 * scale.minutes - (time.monotonic() - started)
        train_pair(fabric.device, args.quick, max(left, 0), Path(folder))


if __name__ == "__main__":
    main()
