"""Frozen teachers: eval mode, inference mode, folded where exact, never trained and never saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from understudy.errors import UnderstudyError
from understudy.models import Network, fold, laid_out
from understudy.objectives import ensemble_log_probs
from understudy.objectives.soft_targets import Mean
from understudy.signals import Batch, Signals
from understudy.teachers.panel import SpecialistPanel


class Teacher:
    """One network that only answers: `teacher(batch) -> Signals`, without gradients.

    Not an `nn.Module`, so that no optimiser, checkpoint or data-parallel wrapper can take hold of it.
    """

    def __init__(self, network: Network, device: torch.device | str = "cpu") -> None:
        self.network = fold(network)
        laid_out(self.network, device)
        self.networks = (self.network,)

    def watch(self, signals: Iterable[str]) -> None:
        """Answer these signals too; see `Network.watch`."""
        self.network.watch(signals)

    def __call__(self, batch: Batch) -> Signals:
        with torch.inference_mode():
            return self.network(batch)


class Ensemble:
    """Several teachers that answer together, of any architectures and input sizes.

    `logits` are the log-probabilities of the joined distribution at temperature 1; `members` holds each
    teacher's own signals, from which objectives join the distributions at their own temperature.
    """

    def __init__(self, teachers: Sequence[Teacher | SpecialistPanel], mean: Mean = "arithmetic") -> None:
        self.teachers = tuple(teachers)
        self.mean: Mean = mean
        self.networks = tuple(teacher.network for teacher in teachers)

    def watch(self, signals: Iterable[str]) -> None:
        """Have each teacher answer those of these signals that it has; the nets' layers may differ."""
        for teacher in self.teachers:
            layers = {name for name, _ in teacher.network.module.named_modules()}
            teacher.watch(name for name in signals if name == "embedding" or name in layers)

    def __call__(self, batch: Batch) -> Signals:
        members = tuple(teacher(batch) for teacher in self.teachers)
        with torch.inference_mode():
            joined = ensemble_log_probs(torch.stack([m.logits for m in members]), 1.0, self.mean)
        return Signals(joined, members=members)


def check_classes(network: Network, name: str, classes: tuple[str, ...]) -> None:
    """A network must know exactly the data's classes, in their order; otherwise both lists are said."""
    if network.classes != classes:
        raise UnderstudyError(
            f"{name} knows {len(network.classes)} classes ({_listed(network.classes)}), the data has "
            f"{len(classes)} ({_listed(classes)}); give one that was trained on this data's classes"
        )


def _listed(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
