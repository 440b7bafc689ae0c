"""Time of a step with 10,000 classes: one student and four, which share one teacher's answers.

    python benchmarks/many_classes.py

The students are small (64-16-10,000, B = 64), so that what counts is the losses, the metrics and the passes over the
logits: KD at temperature 4 and cross-entropy. Steps alternate; figures are medians, in processor time of all threads,
which other jobs on the machine hardly change.
"""

from __future__ import annotations

import time
from statistics import median

import torch
from lightning_fabric import Fabric

from understudy.config.options import OptimizerConfig
from understudy.models import InputContract, build
from understudy.objectives import KD, CrossEntropy, WeightedSum
from understudy.signals import Batch
from understudy.teachers import Teacher
from understudy.training import Learner, Member

BATCH, INPUTS, CLASSES, STEPS, WARMUP = 64, 64, 10_000, 40, 3


def students(count: int, fabric: Fabric, contract: InputContract) -> list[Member]:
    members = []
    for seed in range(count):
        objective = WeightedSum({"kd": (0.9, KD(4.0)), "ce": (0.1, CrossEntropy())})
        learner = Learner(build("mlp:16x1", contract, seed=seed), objective)
        member = Member(f"distilled-{seed}", "distilled", seed, learner, OptimizerConfig(name="sgd", lr=0.05), True)
        member.setup(fabric)
        member.learner.train()
        members.append(member)
    return members


def main() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    contract = InputContract((INPUTS,), (0.0,) * INPUTS, (1.0,) * INPUTS, tuple(map(str, range(CLASSES))))
    teacher = Teacher(build("mlp:512x2", contract))
    ids = torch.arange(BATCH)

    def seconds(members: list[Member]) -> float:
        batch = Batch(ids, ids, torch.randn(BATCH, INPUTS), torch.randint(0, CLASSES, (BATCH,)))
        start = time.process_time()
        signals = teacher(batch)
        for member in members:
            member.step(fabric, batch, signals, 0.05, BATCH, None)
        return time.process_time() - start

    cohorts = {count: students(count, fabric, contract) for count in (1, 4)}
    rounds = [{count: seconds(members) for count, members in cohorts.items()} for _ in range(STEPS + WARMUP)][WARMUP:]
    for count in cohorts:
        print(f"{count} student(s) {median(one[count] for one in rounds) * 1e3:6.1f} ms of processor time a step")
    print(f"ratio {median(one[4] / one[1] for one in rounds):.2f}")


if __name__ == "__main__":
    main()
