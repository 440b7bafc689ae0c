"""The covariance of a model's predictions over a source, in one pass."""

from __future__ import annotations

from collections.abc import Callable

import torch

from understudy.data.loader import in_order
from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.covariance import Covariance
from understudy.models import eval_mode
from understudy.signals import Batch, Signals


def covariance_of(
    model: Callable[[Batch], Signals],
    source: Source,
    *,
    device: torch.device,
    temperature: float = 1.0,
    batch_size: int = 500,
    workers: int = 0,
) -> Covariance:
    """The covariance of a model's probabilities over a source, without augmentation; labels are not used.

    Raises:
        UnderstudyError: No sample could be read, or a prediction is not finite.
    """
    covariance = Covariance()
    with torch.inference_mode(), eval_mode(model):
        for batch in in_order(source, batch_size, device, workers):
            logits = model(batch).logits.float()
            if device.type == "mps":  # which has no float64
                logits = logits.cpu()
            covariance.update((logits.double() / temperature).softmax(1))
    if not covariance.count:
        raise UnderstudyError(f"no sample of {source.name} could be read; check its files")
    if not bool(covariance.scatter.isfinite().all()):
        raise UnderstudyError(
            f"the covariance of the predictions on {source.name} is not finite, as the network outputs NaN or infinite "
            "logits; train it again with a lower --lr"
        )
    return covariance
