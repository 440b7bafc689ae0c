"""Fully connected nets, as in the MNIST experiments of Hinton et al. 2015."""

from __future__ import annotations

import math

from torch import nn

from understudy.models.dropout import CounterDropout


def mlp(
    hidden: list[int],
    shape: tuple[int, ...],
    classes: int,
    *,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    batchnorm: bool = False,
) -> nn.Sequential:
    """ReLU layers over flattened inputs, (B, *shape) -> (B, classes).

    Args:
        hidden: units of each hidden layer.
        dropout: share of hidden units dropped in training.
        input_dropout: share of inputs dropped in training.
        batchnorm: normalise each hidden layer before its ReLU.
    """
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
