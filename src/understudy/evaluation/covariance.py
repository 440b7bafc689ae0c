"""The covariance of a network's predictions over a set, in one pass and at no more memory than one matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from understudy.data.batches import in_order
from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.logits import evaluating
from understudy.signals import Batch, Signals


class Covariance:
    """Mean and covariance of vectors that come in batches, in float64.

    Batches are merged by the sums of squares about their own means (Chan, Golub and LeVeque 1983), so nothing large
    is ever subtracted from something large.

    Attributes:
        count: vectors so far.
        mean: (C,).
        scatter: (C, C), `sum (x - mean)(x - mean)'`.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, vectors: Tensor) -> None:
        """Take in (B, C) of any float type."""
        if len(vectors) == 0:
            return
        x = vectors.to(self.mean)
        own = Covariance(len(self.mean), self.mean.device)
        own.count, own.mean = len(x), x.mean(0)
        centred = x - own.mean
        own.scatter = centred.T @ centred
        self.merge(own)

    def merge(self, other: Covariance) -> None:
        """Take in what another has seen."""
        both = self.count + other.count
        if not both:
            return
        gap = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += torch.outer(gap, gap) * (self.count * (other.count / both))
        self.mean += gap * (other.count / both)
        self.count = both

    @property
    def matrix(self) -> Tensor:
        """(C, C) covariance, over the number of vectors."""
        return self.scatter / max(self.count, 1)

    @property
    def together(self) -> Tensor:
        """(C, C) `E[x x']`: of probabilities, how often two independent draws for one sample are classes i and j."""
        return self.matrix + torch.outer(self.mean, self.mean)


def covariance_of(
    model: Callable[[Batch], Signals],
    source: Source,
    *,
    device: torch.device,
    temperature: float = 1.0,
    batch_size: int = 500,
    workers: int = 0,
    set_aside: dict[str, str] | None = None,
) -> Covariance:
    """The covariance of a model's probabilities over a source, unvaried; no labels are read.

    Args:
        temperature: of the softmax.
        device, batch_size, workers, set_aside: as for `logits_of`.

    Raises:
        UnderstudyError: a prediction is not finite, or no sample could be read.
    """
    found: Covariance | None = None
    with torch.inference_mode(), evaluating(model):
        for batch in in_order(source, batch_size, device, workers, set_aside):
            logits = model(batch).logits.float()
            if device.type == "mps":  # which has no float64
                logits = logits.cpu()
            found = found or Covariance(logits.shape[1], logits.device)
            found.add((logits.double() / temperature).softmax(1))
    if found is None or not found.count:
        raise UnderstudyError(f"no sample of {source.name} could be read; check its files")
    if not bool(found.scatter.isfinite().all()):
        raise UnderstudyError(
            f"the covariance of the predictions on {source.name} is not finite: the network puts out NaN or infinite "
            "logits; train it again, at a lower --lr"
        )
    return found
