"""Numerics shared by the objectives: float32 regardless of autocast, and normalization that is safe at zero."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, cast

import torch
from torch import Tensor

P = ParamSpec("P")

MIN_SQUARED_NORM = 1e-24
"""Vectors with a smaller squared norm have no direction in float32."""


def to_float32(x: Tensor) -> Tensor:
    """Cast to float32; inference tensors are cloned, since autograd cannot save them for the backward pass."""
    x = x.float()
    return x.clone() if x.is_inference() else x


def full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Decorate a loss to cast its tensors to float32 and disable autocast, which would use half-precision matmuls."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return cast(Any, function)(*map(_cast, args), **{name: _cast(x) for name, x in kwargs.items()})

    return run


def _cast(x: Any) -> Any:
    return to_float32(x) if isinstance(x, Tensor) else x


def unit(x: Tensor) -> Tensor:
    """`x / ||x||_2` over the last dimension; a zero vector stays zero and gets no gradient.

    ReLUs output all-zero channels and embeddings, where the gradient of a clamped norm is 1e12.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    square = x.square().sum(-1, keepdim=True)
    return x * torch.where(square > MIN_SQUARED_NORM, square, torch.inf).rsqrt()
