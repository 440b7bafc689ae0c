"""Counts what a step on a GPU waits for, on CUDA tensors without data, and prints it as JSON; for test_waits.py.

A process of its own: where such tensors were collected together with others, torch was seen to crash later.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from fake_cuda import CUDA, Waits, fake_cuda, fake_fabric
from test_methods import METHODS, images
from understudy.config.options import OptimizerConfig
from understudy.config.recipe import TrainRecipe
from understudy.data import ArraySource
from understudy.data.augment import Augmentation
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.models import InputContract, Network, build
from understudy.objectives import BuildContext
from understudy.pipeline.loss import compose, parse_term
from understudy.signals import Batch
from understudy.teachers import Teacher
from understudy.training import Learner, Loop, Member
from understudy.training.step import EagerStep
from understudy.training.timing import StepTimer

EVERYTHING = OptimizerConfig(name="sgd", lr=1e-3, schedule="cosine", clip=1.0, max_norm=1.0, ema=0.9)
RECIPE = TrainRecipe(data="x", model="x", epochs=2, batch_size=12, optimizer=EVERYTHING)
MOVING = Augmentation(translate=1, flip=True, rotate=5, zoom=0.1, elastic=1.0, noise=0.1)
# the ranks of a sharded bank tell one another how many rows they send
ALONE = [*(method for method in METHODS if "sharded" not in method), "crd:bank=queue:16"]


@dataclass
class Watched(Member):
    """A member that notes what waited in its latest step."""

    waits: Waits = field(default_factory=Waits)
    found: list[str] = field(default_factory=list)

    def step(self, fabric: Fabric, batch: Batch, *args: Any, **named: Any) -> Tensor:
        before = len(self.waits.found)
        loss = super().step(fabric, batch, *args, **named)
        self.found = self.waits.found[before:]
        return loss


def members_of(source: ArraySource, teacher: Network, waits: Waits) -> list[Member]:
    """All methods side by side, of gray students, so that channels are converted too."""
    members: list[Member] = []
    for method in ALONE:
        network = build("cnn:4-6?dropout=0.3", InputContract((1, 8, 8), (0.5,), (0.3,), source.classes))
        context = BuildContext(network.shapes(), teacher.shapes(), source.ids, source.targets, teacher.classifier)
        terms = [parse_term(word) for word in (*method.split("+"), *["ce"] * (method != "ce"))]
        learner = Learner(network, compose(terms, [context], seed=0))
        members.append(Watched(method, "distilled", 3, learner, EVERYTHING, method != "ce", waits=waits))
    return members


def on_fake_cuda(loop: Loop) -> Loop:
    """What `Loop.run` does before its first step."""
    for member in loop.members:
        member.setup(loop.fabric)
        member.learner.train()
    loop.timer = StepTimer([], torch.device("cpu"))  # events take a driver
    loop._make_update = EagerStep(loop.fabric, loop.members, loop.timer, loop.teacher)
    return loop


def of_methods() -> dict[str, list[str]]:
    """What the second step waits for, by method, and in all; the first makes optimizers' slots, and CRD's Z."""
    source = images()
    teacher = Teacher(build("cnn:6-8", InputContract((3, 8, 8), (0.5,) * 3, (0.3,) * 3, source.classes)))
    waits = Waits()
    members = members_of(source, teacher.network, waits)
    teacher.watch({name for m in members for name in m.learner.objective.needs.teacher} - {"logits"})
    with fake_cuda(waits):
        teacher.network.to(CUDA)
        batches = BatchLoader(source, Views(MOVING), 12, 0, CUDA)
        loop = on_fake_cuda(Loop(fake_fabric(), members, batches, RECIPE, teacher))
        stream = loop.batches.stream(0, 3)
        loop._update(next(stream), 12)
        loop._step_in_epoch += 1
        waits.found.clear()
        loop._update(next(stream), 12)
    return {member.name: member.found for member in members if isinstance(member, Watched)} | {"all": waits.found}


def of_mixed_batches(updates: int | None) -> list[str]:
    """What making a batch waits for. The host finds out who is mixed with whom, before, as that takes numbers."""
    views = Views(MOVING, mixup=0.3)
    on_host = BatchLoader(images(), views, 12, 0, torch.device("cpu"), total_steps=updates)
    steps = [on_host._step(number) for number in range(3)]
    waits = Waits()
    with fake_cuda(waits):
        loader = BatchLoader(images(), views, 12, 0, CUDA, total_steps=updates)
        loader._step = steps.__getitem__  # type: ignore[method-assign]
        stream = loader.stream(0, 3)
        next(stream)
        waits.found.clear()
        assert next(stream).weight is not None
    return waits.found


def of_known_operations() -> list[str]:
    """What is known to wait, after what is known not to."""
    waits = Waits()
    with fake_cuda(waits):
        x = torch.ones(3, device=CUDA, requires_grad=True)
        (x * 2 + torch.tensor(1.0)).sum().backward()  # numbers are arguments of kernels
        torch.ones(3).to(CUDA, non_blocking=True)
        assert waits.found == []
        assert x.grad is not None
        assert x.grad.device == CUDA
        assert bool(x.sum() > 0) is False
        torch.tensor([1.0, 2.0], device=CUDA)
        x.detach().cpu()
        x[torch.tensor([0, 2])]
    return waits.found


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of autocast and of copies, for want of a GPU and of data
    found = {
        "methods": of_methods(), "mixed": of_mixed_batches(None), "mixed, by steps": of_mixed_batches(9),
        "known": of_known_operations(),
    }  # fmt: skip
    print(json.dumps(found), flush=True)
    os._exit(0)
