"""Which image size a network does best at: seldom the one that it was trained at (Touvron et al. 2019)."""

from __future__ import annotations

import torch

from understudy.data.source import Source, squashed
from understudy.evaluation.logits import logits_of
from understudy.evaluation.metrics import accuracy
from understudy.models import Network


def accuracy_by_size(network: Network, source: Source, side: int, *, device: torch.device) -> dict[int, float]:
    """Accuracy on a labelled source of images at sizes from three quarters of `side` pixels to half as many more.

    Whole images are brought straight to each size; sizes that the network cannot read are left out.
    """
    contract, found = network.contract, {}
    try:
        for size in sorted({side, *(4 * max(1, round(side * share / 4)) for share in (0.75, 1.25, 1.5))}):
            if network.reads(size):
                said = logits_of(network.feed(size), squashed(source, size), device=device)
                assert said.targets is not None
                found[size] = accuracy(said.logits, said.targets)
    finally:
        network.contract = contract
    return found
