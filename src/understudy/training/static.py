"""The tensors of a batch and of a teacher's signals, which a graph reads at the same places in every replay."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from understudy.signals import Batch, Signals


def map_batch(function: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """A batch of mapped tensors; which view it shows, only the teacher reads."""
    inputs = batch.inputs
    mapped = {name: function(x) for name, x in inputs.items()} if isinstance(inputs, dict) else function(inputs)
    targets, weight, partners = (
        None if x is None else function(x) for x in (batch.targets, batch.weight, batch.partners)
    )
    return Batch(function(batch.ids), function(batch.view), mapped, targets, weight, partners)


def map_signals(function: Callable[[Tensor], Tensor], signals: Signals) -> Signals:
    """Signals of mapped tensors."""
    embedding = None if signals.embedding is None else function(signals.embedding)
    features = {name: function(x) for name, x in signals.features.items()}
    members = tuple(map_signals(function, member) for member in signals.members)
    return Signals(function(signals.logits), embedding, features, members)


def tensors_of(batch: Batch, teacher: Signals | None) -> list[Tensor]:
    """The tensors of a batch and of the teacher's signals, in the same order for all of the same kind."""
    found: list[Tensor] = []

    def collect(x: Tensor) -> Tensor:
        found.append(x)
        return x

    map_batch(collect, batch)
    if teacher is not None:
        map_signals(collect, teacher)
    return found
