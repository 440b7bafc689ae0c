"""What a model answers for every sample of a source, kept on the CPU so that metrics need no second pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.data.batches import in_order
from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.models import Network
from understudy.signals import Batch, Signals


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits of a whole source, in its order, on the CPU.

    Attributes:
        ids: (N,) int64, the samples' stable ids.
        logits: (N, C) float32, before the softmax.
        targets: (N,) int64, or None where unlabelled.
    """

    ids: Tensor
    logits: Tensor
    targets: Tensor | None

    def __len__(self) -> int:
        return self.ids.shape[0]

    def select(self, ids: Tensor) -> Predictions:
        """The predictions of these samples, (M,) int64 ids that must all be here, in that order."""
        order = self.ids.argsort()
        rows = order[torch.searchsorted(self.ids[order], ids).clamp_max(len(self) - 1)]
        assert torch.equal(self.ids[rows], ids), "an id without a prediction"
        return Predictions(ids, self.logits[rows], None if self.targets is None else self.targets[rows])


def logits_of(
    model: Callable[[Batch], Signals],
    source: Source,
    *,
    device: torch.device,
    batch_size: int | None = None,
    workers: int = 0,
    set_aside: dict[str, str] | None = None,
) -> Predictions:
    """Run a model over a source, unvaried and in order; a module runs in eval mode and gets its mode back.

    Args:
        device: where the model lies.
        batch_size: samples at a time; where unset 500, or fewer where images are large.
        workers: processes that decode the records of a source that is not in memory.
        set_aside: record name -> reason, filled in for records that could not be decoded; those have no row.

    Raises:
        UnderstudyError: not one sample could be read.
    """
    ids: list[Tensor] = []
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    with torch.inference_mode(), evaluating(model):
        size = batch_size or at_once(source, *([model] if isinstance(model, Network) else []))
        for batch in in_order(source, size, device, workers, set_aside):
            if len(batch) == 0:
                continue
            ids.append(batch.ids.cpu())
            logits.append(model(batch).logits.float().cpu())
            if batch.targets is not None:
                targets.append(batch.targets.cpu())
    if not ids:
        raise UnderstudyError(f"no sample of {source.name} could be read; check its files")
    # joined outside of inference mode, so that the results may be used anywhere
    return Predictions(torch.cat(ids), torch.cat(logits), torch.cat(targets) if targets else None)


def at_once(source: Source, *networks: Network) -> int:
    """How many samples to run together: 500 of up to 100 x 100 pixels, the fewer the larger networks read them."""
    shapes = [source.shape, *(network.contract.shape for network in networks)]
    return max(1, min(500, 500 * 100**2 // max(math.prod(shape[1:]) for shape in shapes)))


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Eval mode for the time of a block; each submodule then gets its own mode back."""
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode
