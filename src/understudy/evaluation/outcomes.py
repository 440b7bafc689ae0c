"""Which test examples a network classifies correctly, kept as text, so that any two networks can be compared later."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def packed(right: Tensor) -> str:
    """Whether each example is classified correctly, (N,) bool in the order of the test part, as hexadecimal digits.

    >>> import torch
    >>> packed(torch.tensor([True, False, True, True, False, False, False, False, True]))
    'b080'
    """
    return np.packbits(right.cpu().numpy().astype(bool)).tobytes().hex()


def discordant(first: str, second: str) -> tuple[int, int] | None:
    """How many examples only the first of two networks classifies correctly, and how many only the second.

    Args:
        first: as `packed`; "" if it is not known.
        second: as `packed`, of the same examples.

    Returns:
        The two counts of McNemar's test; None if one is not known, or if they are of different numbers of examples.

    >>> discordant("b080", "a0c0")
    (1, 1)
    """
    if not first or len(first) != len(second):
        return None
    a, b = (np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)).astype(bool) for text in (first, second))
    return int((a & ~b).sum()), int((b & ~a).sum())
