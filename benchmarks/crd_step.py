"""Time and memory of a CRD step: the package's objective against gathering every key and multiplying.

    python benchmarks/crd_step.py

A step is drawing the negatives, projecting both embeddings, forward, backward, and moving the banks' rows: B = 64,
dim 128, float32. The other side is the formulation in use: each sample's N + 1 keys are copied out of each bank,
multiplied, exponentiated, and left to autograd. The rounds of one run alternate; each figure is a median, followed
by the median of the rounds' ratios. Memory is what the process held at its highest during a step, beyond what it held
before (banks, projectors and embeddings): a process of its own for each, on Linux.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.objectives import CRD
from understudy.signals import Batch, Signals

BATCH, WIDTH, DIM, TAU, MOMENTUM, CLASSES = 64, 128, 128, 0.07, 0.5, 100
CIFAR, IMAGENET = 50_000, 1_281_167
CASES = (CIFAR, 16_384), (CIFAR, 4_096), (IMAGENET, 16_384), (IMAGENET, 4_096)
KINDS = "plain", "sampled", "all"


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

    def __init__(self, kind: str, size: int, negatives: int) -> None:
        torch.manual_seed(0)
        self.size = size
        self.module: nn.Module
        if kind == "plain":
            self.module = Plain(size, negatives)
        else:
            self.module = CRD(
                *(WIDTH, WIDTH, size, DIM, "all" if kind == "all" else negatives, TAU, MOMENTUM),
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


def resident(key: str) -> float:
    """MB that this process holds ("VmRSS") or held at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def weigh(kind: str, size: int, negatives: int) -> None:
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


def compare(size: int, negatives: int, rounds: int) -> None:
    steps = {kind: Step(kind, size, negatives) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):  # the first round estimates Z and is not counted
        for kind, step in steps.items():
            seconds = step()
            if number:
                times[kind].append(seconds)
    del steps
    memory = {kind: peak(kind, size, negatives) if sys.platform == "linux" else math.nan for kind in KINDS}
    print(f"M = {size:,}, N = {negatives:,}")
    for kind in KINDS:
        ratio = median(a / b for a, b in zip(times["plain"], times[kind], strict=True))
        print(
            f"  {kind:8} {median(times[kind]) * 1e3:8.1f} ms  {ratio:5.1f} times as fast"
            f"  {memory[kind]:8.1f} MB  {memory[kind] / memory['plain']:6.1%} of the memory"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--weigh", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.weigh:
        return weigh(given.weigh[0], int(given.weigh[1]), int(given.weigh[2]))
    print(f"{torch.get_num_threads()} threads, medians of {given.rounds} interleaved rounds")
    for size, negatives in CASES:
        compare(size, negatives, given.rounds)


if __name__ == "__main__":
    main()
