"""What every objective is, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from understudy.signals import Batch, Shapes, Signals

LOGITS = frozenset({"logits"})
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Needs:
    """Which signals an objective reads: "logits", "embedding" or names of taps; and whether it needs labels."""

    student: frozenset[str] = LOGITS
    teacher: frozenset[str] = NOTHING
    targets: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.student | other.student, self.teacher | other.teacher, self.targets or other.targets)


@dataclass(frozen=True)
class Setting:
    """What an objective is fitted to: the shapes of both sides' signals, and the samples it will meet.

    Attributes:
        ids: (M,) int64, the stable ids of the samples of the whole set.
        targets: (M,) int64, their classes, -1 where one is unlabelled; None where all are.
    """

    student: Shapes
    teacher: Shapes
    ids: Tensor
    targets: Tensor | None = None


class Objective(nn.Module):
    """A quantity to minimise: `forward(student, teacher, batch)` gives a float32 scalar, a mean over the batch.

    A subclass sets `needs` (on the class, or on the instance where its arguments decide) and is built from
    shapes alone, so that it works in any training loop. Parameters and buffers of its own are trained, saved
    and synchronised with the student's.

    Attributes:
        weight: what the paper multiplies it by, beside hard targets of weight 1.
        rowwise: whether it is a mean over the batch's rows, so that micro-batches add up to the batch; false
            where it compares the samples of a batch with one another.
        mixable: whether it is exact on mixed inputs, a batch's `weight` and `partners`; false where it reads ids or
            labels in a way that knows of none.
        alike: names of buffers that it keeps alike on every rank by itself, so that none need be sent around.
    """

    needs: Needs = Needs()
    summary: ClassVar[str] = ""
    weight: ClassVar[float] = 1.0
    rowwise: bool = True
    mixable: bool = True
    alike: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def suited(cls, setting: Setting, **options: Any) -> Self:
        """One that fits the setting: its taps, projectors and banks. `options` are the constructor's own.

        Raises:
            ValueError: the setting has nothing that this objective could compare.
        """
        return cls(**options)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward(student, teacher, batch)")


class WeightedSum(Objective):
    """`sum_k weight_k * objective_k`, over any objectives.

    Args:
        terms: name -> (weight, objective).
    """

    def __init__(self, terms: Mapping[str, tuple[float, Objective]]) -> None:
        super().__init__()
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: objective for name, (_, objective) in terms.items()})
        self.needs = Needs(NOTHING)
        for _, objective in terms.values():
            self.needs |= objective.needs
            self.rowwise = self.rowwise and objective.rowwise
            self.mixable = self.mixable and objective.mixable

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        total = torch.zeros((), device=student.logits.device)
        for name, objective in self.terms.items():
            total = total + self.weights[name] * objective(student, teacher, batch)
        return total

    def extra_repr(self) -> str:
        return ", ".join(f"{weight:g} x {name}" for name, weight in self.weights.items())


class PerTeacher(Objective):
    """`sum_i objective_i(student, teacher_i)` over an ensemble's teachers (Tian et al. 2020, section 3.4: CRD-EN).

    Each teacher has an objective of its own, and so a projector and a bank of its own; they may differ in shapes.

    Args:
        objectives: one for each of the ensemble's members, in their order.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self.each = nn.ModuleList(objectives)
        self.needs = Needs(NOTHING)
        for objective in objectives:
            self.needs |= objective.needs
            self.rowwise = self.rowwise and objective.rowwise
            self.mixable = self.mixable and objective.mixable

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        members = teacher_of(self, teacher).members
        if len(members) != len(self.each):
            raise ValueError(f"this was made for {len(self.each)} teachers; the signals are of {len(members)}")
        losses = [objective(student, member, batch) for objective, member in zip(self.each, members, strict=True)]
        return torch.stack(losses).sum()


def kept_alike(module: nn.Module) -> list[str]:
    """Names of the buffers in a module that its objectives keep right on every rank, so that none is to be sent around.

    Give them to `DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)` before wrapping.
    """
    parts = [(name, part) for name, part in module.named_modules() if isinstance(part, Objective)]
    return [f"{name}.{buffer}".lstrip(".") for name, part in parts for buffer in sorted(part.alike)]


def teacher_of(objective: Objective, teacher: Signals | None) -> Signals:
    """The teacher's signals, for an objective that cannot do without."""
    if teacher is None:
        raise ValueError(f"{type(objective).__name__} needs a teacher's signals; it was given None")
    return teacher
