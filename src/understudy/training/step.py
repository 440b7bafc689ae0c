"""One update of a cohort, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from lightning_fabric import Fabric
from torch import Tensor

from understudy.randomness import seed_of
from understudy.signals import Batch, Signals
from understudy.training.member import Member
from understudy.training.optimizer import decays_to_initial
from understudy.training.timing import StepTimer


@dataclass
class EagerStep:
    """Makes one update of every member.

    Attributes:
        teacher: what the members learn from; None for labels alone.
        micro_batch: samples in a forward pass; None for all.
        first_nonfinite: (members,) int64, the step at which a loss was first NaN or infinite; -1 for none.
        rate: the learning rate as a tensor that graphs can read, on CUDA devices; None passes it as a number.
        drew_on_device: whether a layer has drawn from the generator of a CUDA device.
    """

    fabric: Fabric
    members: Sequence[Member]
    timer: StepTimer
    teacher: Callable[[Batch], Signals] | None = None
    micro_batch: int | None = None
    first_nonfinite: Tensor = field(init=False)
    rate: Tensor | None = field(init=False, default=None)
    drew_on_device: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.first_nonfinite = torch.full((len(self.members),), -1, device=self.fabric.device)
        on_host = any(decays_to_initial(member.optimizer_config) for member in self.members)
        if self.fabric.device.type == "cuda" and not on_host:
            self.rate = torch.zeros((), device=self.fabric.device)

    def __call__(self, batch: Batch, samples: int, step: int, lr: float) -> None:
        """Make update number `step` from this rank's part of a batch of `samples` on all ranks."""
        self.timer.mark()
        teacher = self.answer(batch)
        if teacher is not None:
            self.timer.mark("teacher")
        self.update(batch, teacher, samples, step, lr)
        self.timer.end_step(len(batch))

    def answer(self, batch: Batch) -> Signals | None:
        """What the teacher says of a batch."""
        if self.teacher is None:
            return None
        with self.fabric.autocast():
            return self.teacher(batch)

    def update(self, batch: Batch, teacher: Signals | None, samples: int, step: int, lr: float) -> None:
        """Update the members, in an order that varies by step and is the same on every rank.

        It affects only their timing: the member after one that uses much memory finds cold caches, and a fixed order
        would always charge the same member for it.
        """
        if self.rate is not None:
            self.rate.fill_(lr)
        losses: dict[str, Tensor] = {}
        for member in Random(step).sample(self.members, len(self.members)):
            seed_generators(seed_of(member.seed, step), self.fabric.device)
            losses[member.name] = self.update_member(member, batch, teacher, samples, lr)
            self.drew_on_device |= _has_drawn(self.fabric.device)
            self.timer.mark(member.name)
        self.note_nonfinite([losses[member.name] for member in self.members], step)

    def update_member(
        self, member: Member, batch: Batch, teacher: Signals | None, samples: int, lr: float | Tensor
    ) -> Tensor:
        teacher = teacher if member.uses_teacher else None
        rate = lr if self.rate is None else self.rate
        return member.step(self.fabric, batch, teacher, rate, samples, self.micro_batch)

    def note_nonfinite(self, losses: Sequence[Tensor], step: int | Tensor) -> None:
        first = self.first_nonfinite
        first.copy_(torch.where(torch.isfinite(torch.stack(list(losses))) | (first >= 0), first, step))


def seed_generators(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the devices in use only, as it would look for all accelerators at each step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _has_drawn(device: torch.device) -> bool:
    """Whether a CUDA device's generator was used since it was seeded."""
    generators = torch.cuda.default_generators if device.type == "cuda" else ()
    return len(generators) > 0 and generators[device.index or 0].get_offset() > 0
