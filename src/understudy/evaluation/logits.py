"""Predictions of a model for a whole source, kept on the CPU so that metrics need no second pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.data.loader import in_order
from understudy.data.source import Source, resize_square
from understudy.errors import UnderstudyError
from understudy.evaluation.metrics import accuracy
from understudy.models import Network, eval_mode
from understudy.signals import Batch, Signals


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits for a whole source, in its order, on the CPU."""

    ids: Tensor  # (N,) int64
    logits: Tensor  # (N, C) float32, before the softmax
    targets: Tensor | None  # (N,) int64; None without labels

    def __len__(self) -> int:
        return self.ids.shape[0]

    def select(self, ids: Tensor) -> Predictions:
        """The predictions for these samples in this order, given (M,) int64 ids that must all be present."""
        order = self.ids.argsort()
        rows = order[torch.searchsorted(self.ids[order], ids).clamp_max(len(self) - 1)]
        assert torch.equal(self.ids[rows], ids), "no prediction for some id"
        return Predictions(ids, self.logits[rows], None if self.targets is None else self.targets[rows])


def predict_logits(
    model: Callable[[Batch], Signals],
    source: Source,
    *,
    device: torch.device,
    batch_size: int | None = None,
    workers: int = 0,
    skipped: dict[str, str] | None = None,
) -> Predictions:
    """Run a model over a source, in order, without augmentation; a module runs in eval mode, which is then undone.

    Args:
        batch_size: Defaults to 500, or less for large images.
        workers: Processes that decode a source that is not in memory.
        skipped: Record name -> reason, filled in for records that could not be decoded and have no prediction.
    """
    ids: list[Tensor] = []
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    with torch.inference_mode(), eval_mode(model):
        size = batch_size or default_batch_size(source, *([model] if isinstance(model, Network) else []))
        for batch in in_order(source, size, device, workers, skipped):
            if len(batch) == 0:
                continue
            ids.append(batch.ids.cpu())
            logits.append(model(batch).logits.float().cpu())
            if batch.targets is not None:
                targets.append(batch.targets.cpu())
    if not ids:
        raise UnderstudyError(f"no sample of {source.name} could be read; check its files")
    if not all(bool(x.isfinite().all()) for x in logits):
        raise UnderstudyError(f"outputs on {source.name} are not finite: train the network again, at a lower --lr")
    # concatenated outside of inference mode, so that the results can be used anywhere
    return Predictions(torch.cat(ids), torch.cat(logits), torch.cat(targets) if targets else None)


def default_batch_size(source: Source, *networks: Network) -> int:
    """500 for images of up to 100 x 100 pixels, decreasing with the largest image in the source or a network."""
    shapes = [source.shape, *(network.contract.shape for network in networks)]
    return max(1, min(500, 500 * 100**2 // max(math.prod(shape[1:]) for shape in shapes)))


def accuracy_by_size(network: Network, source: Source, side: int, *, device: torch.device) -> dict[int, float]:
    """Accuracy on labeled images by resolution, whose best is rarely that of training (Touvron et al. 2019).

    Images are squashed to `side` pixels and to about 0.75, 1.25 and 1.5 times as many, if the network accepts the size.
    """
    contract, results = network.contract, {}
    try:
        for size in sorted({side, *(4 * max(1, round(side * factor / 4)) for factor in (0.75, 1.25, 1.5))}):
            if network.accepts_size(size):
                network.set_input_size(size)
                predictions = predict_logits(network, resize_square(source, size), device=device)
                assert predictions.targets is not None
                results[size] = accuracy(predictions.logits, predictions.targets)
    finally:
        network.contract = contract
    return results
