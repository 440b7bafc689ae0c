"""What some of the views of a store looked like when it was made, to tell whether they still do."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from understudy.data import Source
from understudy.data.loader import BatchLoader
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.randomness import mix, name_key
from understudy.signals import Batch
from understudy.teachers.store import SAMPLED, Store

_VIEWS, _EACH = 8, 8
_SIDE = 8  # of what is kept of an image
_TOLERANCE = 0.02
"""Of the range of pixels on average: versions of a decoder differ by less. Also of probabilities: so do devices."""


@dataclass(frozen=True)
class These:
    """Some rows of a source, in every epoch."""

    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, epoch: int) -> Tensor:
        return self.rows


@dataclass(frozen=True)
class Looks:
    """Sampled views: their numbers (V,), the samples' ids (V, M), and each reduced to F numbers, (V, M, F)."""

    views: NDArray[Any]
    ids: NDArray[Any]
    values: NDArray[Any]

    def to_bytes(self) -> bytes:
        stream = io.BytesIO()
        np.savez(stream, views=self.views, ids=self.ids, values=self.values)
        return stream.getvalue()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `UnderstudyError` for what `to_bytes` did not make."""
        try:
            with np.load(path, allow_pickle=False) as found:
                return cls(found["views"], found["ids"], found["values"])
        except (OSError, ValueError, KeyError) as fault:
            raise UnderstudyError(f"{path} is damaged ({fault}); restore it, or label the data again") from None


def npy(array: NDArray[Any]) -> bytes:
    """An array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def look(source: Source, views: Views) -> Looks:
    """Reduce 64 views of a source, eight of each of eight of the counted views."""
    count = views.count or 1
    numbers = sorted({count * k // _VIEWS for k in range(_VIEWS)})
    ids, values = [], []
    for number in numbers:
        rows = sampled_rows(source, number, _EACH)
        batch = view_of(source, views, number, rows)
        small = _reduced(batch)
        found = torch.full((len(rows), small.shape[1]), torch.nan)  # of what cannot be decoded
        found[torch.isin(source.ids[rows], batch.ids)] = small
        ids.append(source.ids[rows])
        values.append(found)
    return Looks(np.array(numbers), torch.stack(ids).numpy(), torch.stack(values).numpy())


def sampled_rows(source: Source, number: int, count: int) -> Tensor:
    """At most so many rows of a source, by a function of a number and the ids."""
    return mix(name_key("sampled"), number, source.ids).argsort()[:count].sort().values


def view_of(source: Source, views: Views, number: int, rows: Tensor) -> Batch:
    """One of the counted views of some rows of a source."""
    loader = BatchLoader(source, views, len(rows), 0, torch.device("cpu"), sampler=These(rows))
    return next(loader.stream(number, number + 1))


def check_looks(store: Store, source: Source, teacher: Any = None) -> None:
    """Compare sampled views of a source, and a teacher's answers to them, with what a store knows.

    Args:
        teacher: on the CPU; None where it is not at hand.

    Raises:
        UnderstudyError: they differ.
    """
    known, order = Looks.read(store.path / SAMPLED), source.ids.argsort()
    differences, apart = list[float](), list[float]()
    for number, ids, values in zip(known.views.tolist(), known.ids, known.values, strict=True):
        wanted = torch.from_numpy(ids)
        there = torch.isin(wanted, source.ids) & torch.from_numpy(~np.isnan(values).any(1))
        if not there.any():
            continue
        rows = order[torch.searchsorted(source.ids[order], wanted[there])]
        batch = view_of(source, store.views, number, rows)
        before, now = torch.from_numpy(values)[there], _reduced(batch)
        if len(now) != len(before) or now.shape != before.shape:
            raise UnderstudyError(f"{source.name} has changed since {store.path} was made; label it again")
        scale = max(float(before.abs().mean()), 1.0)
        differences.append(float((now - before).abs().mean()) / scale)
        if teacher is not None:
            apart.append(_apart(store, teacher, batch))
    if differences and max(differences) > _TOLERANCE:
        raise UnderstudyError(
            f"the views of {source.name} are not those of {store.path} (sampled ones differ by "
            f"{max(differences):.3f} of their range); label the data again"
        )
    if apart and sum(apart) / len(apart) > _TOLERANCE:
        raise UnderstudyError(
            f"the teacher does not give the answers of {store.path} (its probabilities differ by "
            f"{sum(apart) / len(apart):.3f} on sampled views); give the teacher that made them, or label the data again"
        )


def _apart(store: Store, teacher: Any, batch: Batch) -> float:
    """How far a teacher's answers are from those kept: of their probabilities, or else of their embeddings."""
    if store.shapes[0].classes:
        fresh, kept = store.as_kept(teacher(batch)), store(batch)
        return float((fresh.logits.softmax(1) - kept.logits.softmax(1)).abs().sum(1).mean()) / 2
    if not store.shapes[0].embedding:
        return 0.0
    each = []
    for answers in (teacher, store):
        answers.watch({"embedding"})
        signals = answers(batch)
        each.append((signals.members or (signals,))[0].embedding)
    return float((1 - F.cosine_similarity(each[0], each[1])).mean()) / 2


def _reduced(batch: Batch) -> Tensor:
    """(M, F): of images small ones, of vectors the first numbers."""
    inputs = batch.inputs if isinstance(batch.inputs, Tensor) else next(iter(batch.inputs.values()))
    if inputs.dim() < 4:
        return inputs.flatten(1)[:, : _SIDE**2].float()
    return F.adaptive_avg_pool2d(inputs.float(), _SIDE).flatten(1)
