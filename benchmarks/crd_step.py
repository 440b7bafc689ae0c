"""Time and memory of a CRD step: the package's objective against gathering every key and multiplying.

    python benchmarks/crd_step.py
    python benchmarks/crd_step.py --choice
    python benchmarks/crd_step.py --training

A step is drawing the negatives, projecting both embeddings, forward, backward, and moving the banks' rows: B = 64,
dim 128, float32. The other side is the formulation in use: each sample's N + 1 keys are copied out of each bank,
multiplied, exponentiated, and left to autograd. The rounds of one run alternate; each figure is a median, followed
by the median of the rounds' ratios. Memory is what the process held at its highest during a step, beyond what it held
before (banks, projectors and embeddings): a process of its own for each, on Linux.

With --choice, it is only the package's own step with all negatives relative to that with N sampled ones, over the sizes
by which `negatives="auto"` chooses, and what it chooses.

With --training, a step is all of a student's: WRN-40-2 teaches WRN-16-2 on images of 32x32, B = 64, M = 50,000 and
N = 16,384, by CRD and the labels. The plain side is the same two nets as they come, the teacher without gradients, with
the loss by gathering, in float32; the package's is what its loop does: a folded teacher in inference mode, kernels with
their channels last, in float32 and in bf16 autocast.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Literal

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from understudy.config.options import OptimizerConfig
from understudy.models import InputContract, Network, build
from understudy.objectives import CRD, CrossEntropy, WeightedSum
from understudy.objectives.crd.kernel import takes_all
from understudy.signals import Batch, Signals
from understudy.teachers import Teacher
from understudy.training import Learner, Member

BATCH, WIDTH, DIM, TAU, MOMENTUM, CLASSES = 64, 128, 128, 0.07, 0.5, 100
CIFAR, IMAGENET, NEGATIVES = 50_000, 1_281_167, 16_384
CASES = (CIFAR, 16_384), (CIFAR, 4_096), (IMAGENET, 16_384), (IMAGENET, 4_096)
CHOICES = (16_000, 4_000), (CIFAR, 16_384), (CIFAR, 8_000), (98_000, 16_384), (200_000, 16_384), (IMAGENET, 16_384)
Kind = Literal["plain", "sampled", "all", "auto"]
COMPARED: tuple[Kind, ...] = "sampled", "all", "auto"
KINDS: tuple[Kind, ...] = "plain", "sampled", "all"


class Plain(nn.Module):
    """The loss as the equations read, with Z from the first batch."""

    def __init__(self, size: int, negatives: int) -> None:
        super().__init__()
        self.size, self.negatives = size, negatives
        self.project_student, self.project_teacher = nn.Linear(WIDTH, DIM), nn.Linear(WIDTH, DIM)
        self.banks = [F.normalize(torch.rand(size, DIM) * 2 - 1, dim=1) for _ in range(2)]
        self.z = [-1.0, -1.0]

    def one_side(self, side: int, query: Tensor, rows: Tensor) -> Tensor:
        keys = self.banks[1 - side].index_select(0, rows.flatten()).view(*rows.shape, DIM)
        scores = torch.exp(torch.bmm(keys, query[:, :, None]).squeeze(2) / TAU)
        if self.z[side] < 0:
            self.z[side] = float(scores.detach().mean()) * self.size
        scores = scores / self.z[side]
        noise = self.negatives / self.size
        positive = torch.log(scores[:, 0] / (scores[:, 0] + noise))
        negative = torch.log(noise / (scores[:, 1:] + noise))
        return -(positive.sum() + negative.sum()) / len(query)

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        assert student.embedding is not None
        assert teacher.embedding is not None
        pair = [
            F.normalize(self.project_student(student.embedding), dim=1),
            F.normalize(self.project_teacher(teacher.embedding), dim=1),
        ]
        rows = torch.randint(0, self.size, (len(batch), self.negatives + 1))
        rows[:, 0] = batch.ids
        loss = self.one_side(0, pair[0], rows) + self.one_side(1, pair[1], rows)
        with torch.no_grad():
            for bank, new in zip(self.banks, pair, strict=True):
                bank[batch.ids] = F.normalize(MOMENTUM * bank[batch.ids] + (1 - MOMENTUM) * new, dim=1)
        return loss


class Step:
    """One side of the comparison, ready to take steps."""

    def __init__(self, kind: Kind, size: int, negatives: int) -> None:
        torch.manual_seed(0)
        self.size = size
        self.module: nn.Module
        if kind == "plain":
            self.module = Plain(size, negatives)
        else:
            self.module = CRD(
                *(WIDTH, WIDTH, size, DIM, negatives if kind == "sampled" else kind, TAU, MOMENTUM),
                nominal=negatives,
                targets=torch.arange(size) % CLASSES,
            )
        self.student = torch.randn(BATCH, WIDTH, requires_grad=True)
        self.teacher = torch.randn(BATCH, WIDTH)

    def __call__(self) -> float:
        ids = torch.randperm(self.size)[:BATCH]
        logits = torch.zeros(BATCH, 1)
        batch = Batch(ids, ids, logits)
        self.module.zero_grad()
        start = time.perf_counter()
        self.module(Signals(logits, self.student), Signals(logits, self.teacher), batch).backward()
        return time.perf_counter() - start


class Training:
    """A whole step of a student's training: both nets, the losses, backward and the update.

    Args:
        kind: "plain", or the `negatives` of the package's CRD, "sampled" or "all".
        precision: of Fabric's; "32-true" or "bf16-mixed".
    """

    def __init__(self, kind: str, precision: Literal["32-true", "bf16-mixed"] = "32-true") -> None:
        torch.manual_seed(0)
        contract = InputContract((3, 32, 32), (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(CLASSES))))
        self.fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        uses_teacher, self.student = (build(f"cifar:{name}", contract) for name in ("wrn_40_2", "wrn_16_2"))
        self.plain = Plain(CIFAR, NEGATIVES) if kind == "plain" else None
        self.optimizer: torch.optim.Optimizer | None = None
        if self.plain is not None:
            self.teacher: Network | Teacher = uses_teacher.eval().watch(["embedding"])
            self.student.train().watch(["embedding"])
            parameters = [*self.student.parameters(), *self.plain.parameters()]
            self.optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)
            return
        negatives = "all" if kind == "all" else NEGATIVES
        crd = CRD(WIDTH, WIDTH, CIFAR, DIM, negatives, targets=torch.arange(CIFAR) % CLASSES)
        objective = WeightedSum({"crd": (0.8, crd), "ce": (1.0, CrossEntropy())})
        recipe = OptimizerConfig(name="sgd", lr=0.05, weight_decay=5e-4)
        self.teacher = Teacher(uses_teacher)
        self.teacher.watch(["embedding"])
        self.member = Member("distilled-0", "distilled", 0, Learner(self.student, objective), recipe, True)
        self.member.setup(self.fabric)
        self.member.learner.train()

    def __call__(self) -> float:
        ids = torch.randperm(CIFAR)[:BATCH]
        batch = Batch(ids, ids, torch.rand(BATCH, 3, 32, 32), ids % CLASSES)
        start = time.perf_counter()
        if self.plain is None:
            with self.fabric.autocast():
                teacher_out = self.teacher(batch)
            self.member.step(self.fabric, batch, teacher_out, 0.05, BATCH, None)
            return time.perf_counter() - start
        with torch.no_grad():
            teacher_out = self.teacher(batch)
        student = self.student(batch)
        assert batch.targets is not None
        assert self.optimizer is not None
        loss = F.cross_entropy(student.logits, batch.targets) + 0.8 * self.plain(student, teacher_out, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def compare_training(rounds: int) -> None:
    steps = {
        "plain, float32": Training("plain"),
        "sampled, float32": Training("sampled"),
        "all, float32": Training("all"),
        "sampled, bf16": Training("sampled", "bf16-mixed"),
        "all, bf16": Training("all", "bf16-mixed"),
    }
    times = interleaved(steps, rounds)
    print(f"WRN-40-2 -> WRN-16-2, 32x32, B = {BATCH}, M = {CIFAR:,}, N = {NEGATIVES:,}")
    for kind, own in times.items():
        ratio = median(a / b for a, b in zip(times["plain, float32"], own, strict=True))
        print(
            f"  {kind:16} {median(own) * 1e3:8.0f} ms  {BATCH / median(own):7.1f} images/s  {ratio:5.2f} times as fast"
        )


def resident(key: str) -> float:
    """MB that this process holds ("VmRSS") or held at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def weigh(kind: Kind, size: int, negatives: int) -> None:
    Step(kind, 20_000, 64)()  # load the libraries and their workspaces
    step = Step(kind, size, negatives)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    step()
    print(resident("VmHWM") - before)


def peak(kind: str, size: int, negatives: int) -> float:
    # freed tensors go back to the system at once, so that none is hidden in memory kept for later
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--weigh", kind, str(size), str(negatives)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def interleaved(steps: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each of some rounds; a first round, which estimates Z, is not counted."""
    seconds = [{kind: step() for kind, step in steps.items()} for _ in range(rounds + 1)]
    return {kind: [one[kind] for one in seconds[1:]] for kind in steps}


def compare(size: int, negatives: int, rounds: int) -> None:
    times = interleaved({kind: Step(kind, size, negatives) for kind in KINDS}, rounds)
    memory = {kind: peak(kind, size, negatives) if sys.platform == "linux" else math.nan for kind in KINDS}
    print(f"M = {size:,}, N = {negatives:,}")
    for kind in KINDS:
        ratio = median(a / b for a, b in zip(times["plain"], times[kind], strict=True))
        print(
            f"  {kind:8} {median(times[kind]) * 1e3:8.1f} ms  {ratio:5.1f} times as fast"
            f"  {memory[kind]:8.1f} MB  {memory[kind] / memory['plain']:6.1%} of the memory"
        )


def compare_choice(rounds: int) -> None:
    for size, negatives in CHOICES:
        times = interleaved({kind: Step(kind, size, negatives) for kind in COMPARED}, rounds)
        print(f"M = {size:,}, N = {negatives:,}, M / N = {size / negatives:.1f}", end="")
        for kind, own in times.items():
            ratio = median(a / b for a, b in zip(own, times["sampled"], strict=True))
            print(f"  {kind} {median(own) * 1e3:.1f} ms ({ratio:.2f})", end="")
        print("  auto is", "all" if takes_all(size, negatives) else "sampled", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--choice", action="store_true", help="compare all negatives with sampled ones")
    parser.add_argument("--training", action="store_true", help="time whole training steps")
    parser.add_argument("--weigh", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.weigh:
        return weigh(args.weigh[0], int(args.weigh[1]), int(args.weigh[2]))
    print(f"{torch.get_num_threads()} threads, medians of {args.rounds} interleaved rounds")
    if args.choice:
        return compare_choice(args.rounds)
    if args.training:
        return compare_training(args.rounds)
    for size, negatives in CASES:
        compare(size, negatives, args.rounds)


if __name__ == "__main__":
    main()
