"""The base class of all objectives, and weighted sums of them."""

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
    """The signals that an objective reads ("logits", "embedding" or names of taps), and whether it needs labels.

    >>> needs = Needs(student=LOGITS, teacher=LOGITS) | Needs(student=frozenset({"layer2"}))
    >>> sorted(needs.student), sorted(needs.teacher), needs.targets
    (['layer2', 'logits'], ['logits'], False)
    """

    student: frozenset[str] = LOGITS
    teacher: frozenset[str] = NOTHING
    targets: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.student | other.student, self.teacher | other.teacher, self.targets or other.targets)


@dataclass(frozen=True)
class BuildContext:
    """What an objective is built from: the shapes of the student's and teacher's signals, and the training samples.

    `ids` (M,) int64 are the samples' stable ids; `targets` (M,) their classes, -1 if unlabeled; None if all are.
    """

    student: Shapes
    teacher: Shapes
    ids: Tensor
    targets: Tensor | None = None


class Objective(nn.Module):
    """A loss: `forward(student, teacher, batch)` returns a float32 scalar, a mean over the batch.

    A subclass sets `needs`, on the class or, where its arguments decide, on the instance. It is built from shapes
    alone, so that it works in any training loop. Its parameters and buffers are trained, saved and synchronized
    with the student's.

    Attributes:
        weight: the default weight, the paper's for a cross-entropy term of weight 1.
        per_sample: whether the loss is a mean of per-sample losses, so that micro-batches, and the parts of a batch on
            several ranks, add up to the batch. False if it compares the samples of a batch with one another: it is then
            the loss of the joint batch of all ranks, whose rows it takes from `ranks.all_gather`.
        supports_mixup: whether the loss is exact on mixed inputs, whose batch has a `weight` and `partners`. False
            if it uses ids or labels in a way that ignores the partners.
        synced_buffers: names of buffers that the objective itself keeps equal on all ranks, so that data parallelism
            need not broadcast them.
        fitted: whether `fit` measures anything.
        labels_beside: whether the labels' cross-entropy is added to it where labels are there and nothing else is said.
    """

    needs: Needs = Needs()
    summary: ClassVar[str] = ""
    weight: ClassVar[float] = 1.0
    per_sample: bool = True
    supports_mixup: bool = True
    synced_buffers: ClassVar[frozenset[str]] = frozenset()
    fitted: bool = False
    labels_beside: ClassVar[bool] = True

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        """Build the objective for these networks and samples: its taps, projectors and memory banks.

        Options are the constructor's. Raises a ValueError if there is nothing that this objective can compare.
        """
        return cls(**options)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward(student, teacher, batch)")

    def fit(self, teacher: Signals) -> None:
        """Measure the teacher's space on its answers to some samples, once before the first step; nothing by default.

        Raises a ValueError if they cannot be learned from.
        """

    def check(self) -> None:
        """Raise a ValueError if an earlier batch broke a rule that `forward` checks at once on CPUs only.

        Accelerators would have to be waited for; the training loop calls this where it waits for them anyway.
        """

    def _combine(self, parts: Sequence[Objective]) -> None:
        """Take over what the parts need, and support only what all of them do."""
        self.needs = Needs(NOTHING)
        for part in parts:
            self.needs |= part.needs
        self.fitted = any(part.fitted for part in parts)
        self.per_sample = all(part.per_sample for part in parts)
        self.supports_mixup = all(part.supports_mixup for part in parts)


class WeightedSum(Objective):
    """`sum_k weight_k * objective_k` of terms, name -> (weight, objective).

    >>> from understudy.objectives import KD, CrossEntropy
    >>> loss = WeightedSum({"kd": (0.9, KD(temperature=4.0)), "ce": (0.1, CrossEntropy())})
    >>> loss.weights, loss.needs.targets
    ({'kd': 0.9, 'ce': 0.1}, True)
    """

    def __init__(self, terms: Mapping[str, tuple[float, Objective]]) -> None:
        super().__init__()
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: objective for name, (_, objective) in terms.items()})
        self._combine([objective for _, objective in terms.values()])

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        total = torch.zeros((), device=student.logits.device)
        for name, objective in self.terms.items():
            total = total + self.weights[name] * objective(student, teacher, batch)
        return total

    def fit(self, teacher: Signals) -> None:
        for objective in self.terms.children():
            objective.fit(teacher)  # type: ignore[operator]

    def extra_repr(self) -> str:
        return ", ".join(f"{weight:g} x {name}" for name, weight in self.weights.items())


class PerTeacher(Objective):
    """`sum_i objective_i(student, teacher_i)` over an ensemble's teachers (Tian et al. 2020, section 3.4: CRD-EN).

    Each teacher has its own objective, hence its own projector and bank; the teachers' shapes may differ.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self.each = nn.ModuleList(objectives)
        self._combine(objectives)

    def fit(self, teacher: Signals) -> None:
        for objective, member in self._paired(teacher):
            objective.fit(member)

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        losses = [objective(student, member, batch) for objective, member in self._paired(teacher)]
        return torch.stack(losses).sum()

    def _paired(self, teacher: Signals | None) -> list[tuple[Any, Signals]]:
        """Each teacher's objective with its signals."""
        members = require_teacher(self, teacher).members
        if len(members) != len(self.each):
            raise ValueError(f"this objective was built for {len(self.each)} teachers, but got {len(members)}")
        return list(zip(self.each, members, strict=True))


def ddp_ignored_buffers(module: nn.Module) -> list[str]:
    """Names of the buffers in `module` that its objectives synchronize themselves.

    Pass them to `DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)` before wrapping.

    >>> from understudy.objectives import CRD
    >>> ddp_ignored_buffers(CRD(8, 8, bank_size=10))[:2]
    ['bank_student', 'bank_teacher']
    """
    objectives = [(name, part) for name, part in module.named_modules() if isinstance(part, Objective)]
    return [f"{name}.{buffer}".lstrip(".") for name, part in objectives for buffer in sorted(part.synced_buffers)]


def check_number(
    name: str, value: float, *, least: float = 0.0, most: float = 1e6, above: bool = False, whole: bool = False
) -> None:
    """Raise a ValueError unless a parameter is a number from `least`, or `above` it, to `most`.

    >>> check_number("dim", 64, least=1, whole=True)
    >>> check_number("temperature", 0.0, above=True)
    Traceback (most recent call last):
    ValueError: temperature must be above 0 and at most 1,000,000; it is 0.0
    """
    low = value > least if above else value >= least
    if not (low and value <= most) or (whole and value != int(value)):
        bound = f"{'above' if above else 'at least'} {least:g} and at most {most:,.0f}"
        raise ValueError(f"{name} must be {'a whole number ' if whole else ''}{bound}; it is {value}")


def require_teacher(objective: Objective, teacher: Signals | None) -> Signals:
    """The teacher's signals; raises a ValueError if there are none."""
    if teacher is None:
        raise ValueError(f"{type(objective).__name__} needs a teacher's signals, but got None")
    return teacher
