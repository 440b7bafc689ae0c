"""Temperature scaling: one number by which logits are scaled so that confidence means something."""

from __future__ import annotations

from torch import Tensor

_LARGEST = 2.0**10


def fit_scale(logits: Tensor, targets: Tensor) -> float:
    """The s for which the mean confidence of softmax(s * logits), its largest probability, is the accuracy.

    The one number of temperature scaling, 1/T (Guo et al. 2017, section 4.2). There it is of least NLL, for which
    samples are needed that were not learnt from: of such as are all right it is infinite. The mean confidence can be
    brought to the accuracy on either; a net that knows its samples by heart is left about as sure as it is.

    Args:
        logits: (N, C), C at least 2.
        targets: (N,) int64.

    Returns:
        In [1/1024, 1024]: an end of it where the accuracy is that of chance or less, or is 1.
    """
    logits = logits.double()
    accuracy = float((logits.argmax(1) == targets).double().mean())
    low, high = 1 / _LARGEST, _LARGEST
    for _ in range(60):  # confidence rises with s: halve the interval of its logarithm
        middle = (low * high) ** 0.5
        sure = float((logits * middle).softmax(1).amax(1).mean())
        low, high = (middle, high) if sure < accuracy else (low, middle)
    return (low * high) ** 0.5
