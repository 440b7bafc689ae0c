"""What the objectives share in arithmetic: full precision whatever the autocast, and directions that survive a zero."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, cast

import torch
from torch import Tensor

P = ParamSpec("P")

TINY = 1e-24
"""Below this squared length a vector has no direction: float32 has lost it."""


def full(x: Tensor) -> Tensor:
    """The tensor in float32, and fit for autograd: a teacher's inference tensors cannot be saved for a backward."""
    x = x.float()
    return x.clone() if x.is_inference() else x


def full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The function with its tensors in float32 and autocast off, which would multiply matrices in half precision."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return cast(Any, function)(*map(_full, args), **{name: _full(x) for name, x in kwargs.items()})

    return run


def unit(x: Tensor) -> Tensor:
    """`x / ||x||_2` over the last dimension; a zero vector stays zero and gets no gradient, where it has none.

    A ReLU gives whole channels and embeddings of zeros, at which a clamped norm has a gradient of 1e12.
    """
    square = x.square().sum(-1, keepdim=True)
    return x * torch.where(square > TINY, square, torch.inf).rsqrt()


def _full(x: Any) -> Any:
    return full(x) if isinstance(x, Tensor) else x
