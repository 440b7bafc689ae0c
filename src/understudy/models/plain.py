"""Plain networks: fully connected, and a small convolutional one for images of 16 to 64 pixels."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from understudy.errors import UnderstudyError
from understudy.models.dropout import CounterDropout

MOST_LAYERS = 1_000
_MOST_WEIGHTS = 1_000_000_000


def mlp(
    hidden: list[int],
    shape: tuple[int, ...],
    classes: int,
    *,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    batchnorm: bool = False,
) -> nn.Sequential:
    """ReLU layers on flattened inputs, (B, *shape) -> (B, classes); BatchNorm, if any, comes before each ReLU."""
    _check_dropout(dropout, input_dropout)
    _check_weights(sum(a * b for a, b in pairwise([math.prod(shape), *hidden, classes])))
    layers: list[nn.Module] = [nn.Flatten()]
    if input_dropout:
        layers.append(CounterDropout(input_dropout))
    width = math.prod(shape)
    for units in hidden:
        layers.append(nn.Linear(width, units))
        if batchnorm:
            layers.append(nn.BatchNorm1d(units))
        layers.append(nn.ReLU(inplace=True))
        if dropout:
            layers.append(CounterDropout(dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))


def cnn(
    widths: list[int], shape: tuple[int, ...], classes: int, *, depth: int = 2, dropout: float = 0.0
) -> nn.Sequential:
    """Stages of `depth` 3x3 Conv-BatchNorm-ReLU layers, (B, C, H, W) -> (B, classes).

    Max pooling in between, global average pooling and dropout of the pooled features at the end.
    """
    _check_dropout(dropout)
    if not 1 <= depth * len(widths) <= MOST_LAYERS:
        raise UnderstudyError(f"depth must be at least 1 and make at most {MOST_LAYERS:,} layers, not {depth}")
    first = sum(a * b for a, b in pairwise([shape[0], *widths]))
    _check_weights(9 * (first + (depth - 1) * sum(width**2 for width in widths)))
    layers: list[nn.Module] = []
    channels = shape[0]
    for stage, width in enumerate(widths):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for _ in range(depth):
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if dropout:
        layers.append(CounterDropout(dropout))
    return nn.Sequential(*layers, nn.Linear(channels, classes))


def _check_dropout(*probabilities: float) -> None:
    for p in probabilities:
        if not 0 <= p < 1:
            raise UnderstudyError(f"dropout must be at least 0 and below 1, not {p}")


def _check_weights(count: int) -> None:
    if count > _MOST_WEIGHTS:
        raise UnderstudyError(f"a plain network of {count:,} weights is too large; give it at most {_MOST_WEIGHTS:,}")
