"""What travels: a `Batch` of samples, the `Signals` that a network gives for it, and their `Shapes`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, cat

T = TypeVar("T")

ASPECTS = {"rgb": 3, "gray": 1, "luminance": 1, "chrominance": 2}
"""What can be seen of an image, and in how many channels: itself, its luma, and L and (a, b) of CIE Lab."""


@dataclass(slots=True)
class Batch:
    """Some samples, as every network and objective sees them.

    Attributes:
        ids: (B,) int64, the samples' stable ids in their source.
        view: (B,) int64, the seed of the one view of each sample that `inputs` holds.
        inputs: the canonical form: images are float in [0, 1], (B, C, H, W); or a dict, one tensor a modality.
        targets: (B,) int64 class indices, or None where the data has no labels.
        weight: (B,) float32, of the samples themselves in `inputs`; MixUp (Zhang et al. 2018) gives the rest to another
            sample each. None without MixUp.
        partners: (B,) int64 class indices of those others, or None where there are none or no labels.
        view_index: which view of each sample it is, (B,) int64, or one for all.
    """

    ids: Tensor
    view: Tensor
    inputs: Tensor | dict[str, Tensor]
    targets: Tensor | None = None
    weight: Tensor | None = None
    partners: Tensor | None = None
    view_index: int | Tensor = 0

    def __len__(self) -> int:
        return self.ids.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        """The same batch cut to some rows, without copying where they are a slice."""
        inputs = (
            {name: x[rows] for name, x in self.inputs.items()} if isinstance(self.inputs, dict) else self.inputs[rows]
        )
        targets, weight, partners = (None if x is None else x[rows] for x in (self.targets, self.weight, self.partners))
        index = self.view_index if isinstance(self.view_index, int) else self.view_index[rows]
        return Batch(self.ids[rows], self.view[rows], inputs, targets, weight, partners, index)


@dataclass(slots=True)
class Signals:
    """What a network says about a batch; only what an objective asked for is filled in.

    Attributes:
        logits: (B, C), before the softmax.
        embedding: (B, D), the penultimate layer: what the classifier reads.
        features: tap name -> that layer's output.
        members: for an ensemble, the signals of each of its teachers.
    """

    logits: Tensor
    embedding: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    members: tuple[Signals, ...] = ()
    _derived: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: Hashable, compute: Callable[[], T]) -> T:
        """What `compute` returns, computed the first time and kept as long as these signals.

        All students of a step are given the same signals of the teacher, so what several of them derive from these
        alone, under one name, is computed for the first.

        >>> import torch
        >>> signals = Signals(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
        >>> signals.once("predictions", lambda: signals.logits.argmax(1))
        tensor([1, 0])
        """
        if name not in self._derived:
            self._derived[name] = compute()
        return self._derived[name]

    def __getitem__(self, rows: slice) -> Signals:
        """The same signals cut to some rows, without copying."""
        return Signals(
            self.logits[rows],
            None if self.embedding is None else self.embedding[rows],
            {name: x[rows] for name, x in self.features.items()},
            tuple(member[rows] for member in self.members),
        )


def joined(parts: Sequence[Signals]) -> Signals:
    """The signals of several batches as those of one, with those of an ensemble's members."""
    embeddings = [part.embedding for part in parts if part.embedding is not None]
    return Signals(
        cat([part.logits for part in parts]),
        cat(embeddings) if embeddings else None,
        {name: cat([part.features[name] for part in parts]) for name in parts[0].features},
        members=tuple(joined(each) for each in zip(*(part.members for part in parts), strict=True)),
    )


@dataclass(frozen=True)
class Shapes:
    """What one sample's signals look like, without the batch's dimension.

    Attributes:
        classes: C, the number of logits.
        embedding: D, the width of the penultimate layer.
        features: tap name -> shape, (C, H, W) of an image net's layer or (D,), from the input to the output.
        stem: the same of what enters the first stage, where a network says what that is.
        maps: (C, H, W) of what is pooled into the embedding, () where nothing is.
        projected: whether the network has a projector to a teacher's features, and the teacher's classifier.
        activated: those of the features that an activation ends or directly follows, so that TAP:pre is there too, what
            the activation reads.
    """

    classes: int
    embedding: int
    features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stem: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    maps: tuple[int, ...] = ()
    projected: bool = False
    activated: frozenset[str] = frozenset()
