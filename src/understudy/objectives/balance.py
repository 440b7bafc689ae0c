"""A teacher's space balanced before it is regressed: centered, standardized, or whitened by one scale (PHI-S)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

Kind = Literal["none", "center", "standardize", "phi-s"]

_LEAST = 1e-6  # of a deviation: below it, a dimension is constant


def balancing(x: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """The mean (D,) and the matrix (D, D) with which `(x - mean) @ matrix` is balanced, from embeddings x (N, D).

    - "center": one scale, with which the mean variance of the dimensions is 1;
    - "standardize": each dimension has variance 1, so that small ones count as much as large ones;
    - "phi-s": a rotation and one scale, with which each dimension has variance 1 and distances keep their ratios
      (Ranzinger et al. 2024, PHI-S). Theirs is of principal components and a Hadamard matrix, which not every D has;
      the rotation here is of principal components and of plane rotations that even the variances out (Bendel and
      Mickey 1978).

    >>> x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> mean, matrix = balancing(x, "phi-s")
    >>> ((x - mean) @ matrix).var(0, correction=0).round(decimals=4)
    tensor([1., 1.])
    """
    if not bool(x.isfinite().all()):
        raise ValueError("the teacher's embeddings are not finite, so there is nothing to learn from them")
    x = x.double()
    mean = x.mean(0)
    variance = x.var(0, correction=0)
    if float(variance.max()) < _LEAST**2:
        raise ValueError("the teacher's embeddings are constant, so there is nothing to learn from them")
    if kind == "standardize":
        matrix = (1 / variance.sqrt().clamp_min(_LEAST)).where(variance.sqrt() > _LEAST, 0.0).diag()
    elif kind == "phi-s":
        matrix = torch.from_numpy(_evened(torch.cov(x.T, correction=0).view(len(mean), -1).cpu().numpy())).to(x)
    elif kind == "center":
        matrix = torch.eye(len(mean), dtype=x.dtype, device=x.device) / variance.mean().sqrt()
    else:
        mean, matrix = torch.zeros_like(mean), torch.eye(len(mean), dtype=x.dtype, device=x.device)
    return mean.float(), matrix.float()


def _evened(covariance: np.ndarray) -> np.ndarray:
    """A rotation times a scale, (D, D), after which all variances are 1."""
    values, vectors = np.linalg.eigh(covariance)
    rows = vectors.T / np.sqrt(max(values.mean(), 1e-300))  # of what becomes each dimension
    spread = np.diag(values / values.mean())
    for _ in range(len(values) - 1):
        i, j = int(spread.diagonal().argmin()), int(spread.diagonal().argmax())
        low, high, cross = spread[i, i] - 1, spread[j, j] - 1, spread[i, j]
        if high < 1e-9:
            break
        tangent = (-cross + np.sqrt(max(cross**2 - low * high, 0.0))) / high
        c = 1 / np.hypot(1.0, tangent)
        turn = np.array([[c, tangent * c], [-tangent * c, c]])
        both = [i, j]
        rows[both] = turn @ rows[both]
        spread[both] = turn @ spread[both]
        spread[:, both] = spread[:, both] @ turn.T
    return rows.T


class Balance(nn.Module):
    """`(x - mean) @ matrix` of embeddings (B, D); nothing is changed before `fit`.

    >>> balance = Balance(2, "standardize")
    >>> balance.fit(torch.tensor([[0.0, 1.0], [4.0, 2.0]]))
    >>> balance(torch.tensor([[0.0, 1.0]]))
    tensor([[-1., -1.]])
    """

    mean: Tensor
    matrix: Tensor

    BUFFERS = ("mean", "matrix")

    def __init__(self, width: int, kind: Kind = "standardize") -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"balance must be one of {', '.join(get_args(Kind))}; it is {kind!r}")
        self.kind: Kind = kind
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))

    def fit(self, x: Tensor) -> None:
        """Measure a teacher's space on some of its embeddings, (N, D).

        Raises a ValueError if they are not finite or all the same.
        """
        for own, found in zip((self.mean, self.matrix), balancing(x, self.kind), strict=True):
            own.copy_(found)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.matrix

    def extra_repr(self) -> str:
        return self.kind
