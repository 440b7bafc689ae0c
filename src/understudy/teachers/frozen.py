"""Frozen teachers: folded, in eval and inference mode, never trained and never saved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import torch

from understudy.errors import UnderstudyError
from understudy.models import Network, fold, to_channels_last
from understudy.objectives import ensemble_log_probs
from understudy.objectives.kd import Mean
from understudy.signals import Batch, Signals


class Teacher:
    """A frozen copy of a network: `teacher(batch) -> Signals`, without gradients.

    Not an `nn.Module`, so that no optimizer, checkpoint or data-parallel wrapper includes it.

    >>> from understudy.models import InputContract, build
    >>> teacher = Teacher(build("mlp:8", InputContract((2,), (0.0,) * 2, (1.0,) * 2, ("cat", "dog"))))
    >>> teacher.watch({"embedding"})
    >>> signals = teacher(Batch(torch.arange(4), torch.arange(4), torch.zeros(4, 2)))
    >>> signals.logits.shape, signals.embedding.shape, signals.logits.requires_grad
    (torch.Size([4, 2]), torch.Size([4, 8]), False)
    """

    def __init__(self, network: Network, device: torch.device | str = "cpu") -> None:
        self.network = fold(network)
        to_channels_last(self.network, device)

    def watch(self, signals: Iterable[str]) -> None:
        """Set which signals to return besides the logits; see `Network.watch`."""
        self.network.watch(signals)

    def __call__(self, batch: Batch) -> Signals:
        with torch.inference_mode():
            return self.network(batch)


class Member(Protocol):
    """What an ensemble needs of a member: a `Teacher`, or a panel of specialists."""

    @property
    def network(self) -> Network: ...
    def watch(self, signals: Iterable[str]) -> object: ...
    def __call__(self, batch: Batch) -> Signals: ...


T = TypeVar("T", bound=Member)


class Ensemble:
    """An ensemble of teachers, which may differ in architecture and input size.

    `logits` are the log-probabilities of the arithmetic or geometric `mean` of the distributions at temperature 1.
    `members` holds the signals of each teacher, which objectives combine at their own temperature.

    >>> from understudy.models import InputContract, build
    >>> contract = InputContract((2,), (0.0,) * 2, (1.0,) * 2, ("cat", "dog"))
    >>> ensemble = Ensemble([Teacher(build("mlp:8", contract, seed=seed)) for seed in range(3)])
    >>> signals = ensemble(Batch(torch.arange(4), torch.arange(4), torch.zeros(4, 2)))
    >>> len(signals.members), signals.logits.exp().sum(1)
    (3, tensor([1., 1., 1., 1.]))
    """

    def __init__(self, teachers: Sequence[Member], mean: Mean = "arithmetic") -> None:
        self.teachers = tuple(teachers)
        self.mean: Mean = mean

    def watch(self, signals: Iterable[str]) -> None:
        """Watch, in each teacher, those of the signals that it has."""
        for teacher in self.teachers:
            teacher.watch([name for name in signals if teacher.network.offers(name)])

    def __call__(self, batch: Batch) -> Signals:
        members = tuple(teacher(batch) for teacher in self.teachers)
        with torch.inference_mode():
            return together(members, self.mean)


def together(members: Sequence[Signals], mean: Mean) -> Signals:
    """The signals of an ensemble; its logits are (B, 0) where its teachers do not predict the same classes."""
    logits = [member.logits for member in members]
    if not logits[0].shape[1] or any(x.shape != logits[0].shape for x in logits):
        return Signals(logits[0][:, :0], members=tuple(members))
    return Signals(ensemble_log_probs(torch.stack(logits), 1.0, mean), members=tuple(members))


def combine(teachers: Sequence[T], mean: Mean = "arithmetic") -> T | Ensemble:
    """Several teachers as an ensemble, a single one as it is."""
    return Ensemble(teachers, mean) if len(teachers) > 1 else teachers[0]


def match_classes(network: Network, name: str, classes: tuple[str, ...]) -> None:
    """Have a network predict the classes of the data in their order; raises as `check_classes` unless it knows them."""
    adopt_classes(network, classes)
    check_classes(network, name, classes)


def adopt_classes(network: Network, classes: tuple[str, ...]) -> bool:
    """Have a network predict these classes, in this order, if it knows them; whether it does.

    One with more classes, as of ImageNet, is cut down to those whose names are among these, or one of whose names is,
    as "tabby" of "tabby, tabby cat"; case, spaces, hyphens and underscores do not matter.
    """
    if network.classes == classes:
        return True
    note = ", " if network.init_from else ""
    if sorted(network.classes) == sorted(classes):
        network.reorder_classes(classes)
        network.init_from += f"{note}its classes put into the order of the data"
        return True
    order = named_among(classes, network.classes)
    if order is None:
        return False
    network.init_from += f"{note}{len(classes)} of its {len(network.classes):,} classes taken, by the data's names"
    network.select_classes(order, classes)
    return True


def named_among(classes: Sequence[str], known: Sequence[str]) -> list[int] | None:
    """Which of the known classes each class is; None unless each is exactly one of them, and no two the same.

    >>> named_among(["tabby_cat", "bee"], ["bee", "crane", "tabby, tabby cat"])
    [2, 0]
    """
    places: dict[str, set[int]] = {}
    for index, names in enumerate(known):
        for name in (names, *names.split(",")):
            places.setdefault(_plain(name), set()).add(index)
    found = [places.get(_plain(name), set()) for name in classes]
    order = [next(iter(one)) for one in found if len(one) == 1]
    return order if classes and len(set(order)) == len(classes) else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def check_classes(network: Network, name: str, classes: tuple[str, ...]) -> None:
    """Raise unless a network predicts exactly the classes of the data, in the same order."""
    if network.classes != classes:
        raise UnderstudyError(
            f"{name} predicts {len(network.classes)} classes ({_listed(network.classes)}), but the data has "
            f"{len(classes)} ({_listed(classes)}); use one that was trained on the classes of this data"
        )


def _listed(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
