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
    `classifier` are the teacher's weights (C, D) and biases (C,), None where it has no linear classifier at hand.
    """

    student: Shapes
    teacher: Shapes
    ids: Tensor
    targets: Tensor | None = None
    classifier: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class FirstStage:
    """What a method of two stages trains before the labels are used.

    Attributes:
        objective: the loss of the first stage. Its own parameters are trained in it and are constant afterwards.
        then: the loss of the second stage beside the labels; None for the labels alone.
        rate: factor of the learning rate in the first stage.
    """

    objective: Objective
    then: Objective | None = None
    rate: float = 1.0


class Objective(nn.Module):
    """A loss: `forward(student, teacher, batch)` returns a float32 scalar, a mean over the batch.

    A subclass sets `needs`, on the class or, where its arguments decide, on the instance. It is built from shapes
    alone, so that it works in any training loop. Its parameters and buffers are trained, saved and synchronized
    with the student's.

    Attributes:
        weight: the default weight, the paper's for a cross-entropy term of weight 1.
        warmup: the part of the training over which a `WeightedSum` raises that weight, as the authors do; 0 for none.
        per_sample: whether the loss is a mean of per-sample losses, so that micro-batches, and the parts of a batch on
            several ranks, add up to the batch. False if it compares the samples of a batch with one another: it is then
            the loss of the joint batch of all ranks, whose rows it takes from `ranks.all_gather`.
        reuses_classifier: whether the student is to predict through the teacher's classifier, which is not trained.
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
    warmup: float = 0.0
    per_sample: bool = True
    supports_mixup: bool = True
    reuses_classifier: ClassVar[bool] = False
    synced_buffers: ClassVar[frozenset[str]] = frozenset()
    fitted: bool = False
    labels_beside: ClassVar[bool] = True

    @classmethod
    def from_shapes(cls, context: BuildContext, **options: Any) -> Self:
        """Build the objective for these networks and samples: its taps, projectors and memory banks.

        Options are the constructor's. Raises a ValueError if there is nothing that this objective can compare.
        """
        return cls(**options)

    @classmethod
    def label_weight(cls, options: Mapping[str, Any]) -> float:
        """The weight of the labels' cross-entropy beside this objective alone, built with these options."""
        return 1.0

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

    def first_stage(self) -> FirstStage | None:
        """The first stage of a method that its authors run in two; None for one stage.

        Without it, in a loop that has a single stage, the objective is a term of the loss throughout.
        """
        return None

    def set_epoch(self, epoch: int, epochs: float) -> None:
        """Set what depends on the time: the coming step is in epoch `epoch` (from 1) of `epochs`.

        The training loop calls it before each step. Nothing that it sets is state, and none of it is read back to the
        host, so that a resumed run and a replayed CUDA graph see the same.
        """

    def _combine(self, parts: Sequence[Objective]) -> None:
        """Take over what the parts need, and support only what all of them do."""
        self.needs = Needs(NOTHING)
        for part in parts:
            self.needs |= part.needs
        self.fitted = any(part.fitted for part in parts)
        self.per_sample = all(part.per_sample for part in parts)
        self.supports_mixup = all(part.supports_mixup for part in parts)


def warmup_factor(epoch: int, warmup: float) -> float:
    """`min(epoch / warmup, 1)` of an epoch from 1: a weight that rises by equal steps and is whole from `warmup` on.

    As the released code of Zhao et al. (2022) has it.

    >>> [warmup_factor(epoch, 4) for epoch in (1, 2, 4, 5)], warmup_factor(1, 0)
    ([0.25, 0.5, 1.0, 1.0], 1.0)
    """
    return min(epoch / warmup, 1.0) if warmup else 1.0


class WeightedSum(Objective):
    """`sum_k weight_k * objective_k` of terms, name -> (weight, objective).

    `warmup` has the epochs over which the weight of a term rises (`warmup_factor`); others rise over the part of the
    training that their objective's `warmup` says. In a loop that does not call `set_epoch`, weights are constant.

    >>> from understudy.objectives import KD, CrossEntropy
    >>> loss = WeightedSum({"kd": (0.9, KD(temperature=4.0)), "ce": (0.1, CrossEntropy())})
    >>> loss.weights, loss.needs.targets
    ({'kd': 0.9, 'ce': 0.1}, True)
    """

    synced_buffers = frozenset({"factors"})
    factors: Tensor

    def __init__(self, terms: Mapping[str, tuple[float, Objective]], warmup: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.epochs_of_warmup = dict(warmup or {})
        rising = [name for name, (_, term) in terms.items() if self.epochs_of_warmup.get(name, term.warmup)]
        self.part_of_warmup = {name: term.warmup for name, (_, term) in terms.items()}
        self.place = {name: index for index, name in enumerate(rising)}
        self.register_buffer("factors", torch.ones(len(rising)), persistent=False)
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: objective for name, (_, objective) in terms.items()})
        self._combine([objective for _, objective in terms.values()])

    def forward(self, student: Signals, teacher: Signals | None, batch: Batch) -> Tensor:
        total = torch.zeros((), device=student.logits.device)
        for name, objective in self.terms.items():
            loss = self.weights[name] * objective(student, teacher, batch)
            total = total + (loss * self.factors[self.place[name]] if name in self.place else loss)
        return total

    def fit(self, teacher: Signals) -> None:
        for objective in self.terms.children():
            objective.fit(teacher)  # type: ignore[operator]

    def first_stage(self) -> FirstStage | None:
        """The terms that have a first stage, each at weight 1; then all terms that are left, at their own weights."""
        terms = {name: term for name, term in self.terms.items() if isinstance(term, Objective)}
        stages = {name: stage for name, term in terms.items() if (stage := term.first_stage()) is not None}
        if not stages:
            return None
        then = {name: stages[name].then if name in stages else term for name, term in terms.items()}
        left = {name: (self.weights[name], term) for name, term in then.items() if term is not None}
        first = WeightedSum({name: (1.0, stage.objective) for name, stage in stages.items()})
        warmup = {name: epochs for name, epochs in self.epochs_of_warmup.items() if name in left}
        return FirstStage(first, WeightedSum(left, warmup), min(stage.rate for stage in stages.values()))

    def set_epoch(self, epoch: int, epochs: float) -> None:
        for name, index in self.place.items():
            warmup = self.epochs_of_warmup.get(name, self.part_of_warmup[name] * epochs)
            self.factors[index].fill_(warmup_factor(epoch, warmup))

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
        self.warmup = objectives[0].warmup

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

    def first_stage(self) -> FirstStage | None:
        stages = [stage for each in self.each if isinstance(each, Objective) and (stage := each.first_stage())]
        if not stages:
            return None
        then = [stage.then for stage in stages if stage.then is not None]
        first = PerTeacher([stage.objective for stage in stages])
        return FirstStage(first, PerTeacher(then) if then else None, min(stage.rate for stage in stages))


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
