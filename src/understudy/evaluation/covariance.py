"""Streaming covariance in float64: one pass over any number of batches."""

from __future__ import annotations

import torch
from torch import Tensor


class Covariance:
    """The (cross-)covariance of paired vectors x (D,) and y (E,) that arrive in batches.

    Batches are merged by their deviations from their own means (Chan, Golub and LeVeque 1983), so vectors far from zero
    lose no precision. Memory is (D, E).

    >>> x = torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, 5.0]])
    >>> Covariance().update(x[:2]).update(x[2:]).scatter
    tensor([[ 2.,  5.],
            [ 5., 14.]], dtype=torch.float64)
    """

    mean_x: Tensor  # (D,)
    mean_y: Tensor  # (E,)
    scatter: Tensor  # (D, E), the sum of (x - mean_x)(y - mean_y)^T

    def __init__(self) -> None:
        self.count = 0  # of pairs

    def update(self, x: Tensor, y: Tensor | None = None) -> Covariance:
        """Add the rows of x, (B, D), and y, (B, E); without y the covariance is of x with itself."""
        if not len(x):
            return self
        batch = Covariance()
        x = x.double()
        y = x if y is None else y.double()
        batch.count, batch.mean_x, batch.mean_y = len(x), x.mean(0), y.mean(0)
        batch.scatter = (x - batch.mean_x).T @ (y - batch.mean_y)
        return self.merge(batch)

    def merge(self, other: Covariance) -> Covariance:
        """Add the pairs of another covariance."""
        if not other.count:
            return self
        if not self.count:
            self.count, self.mean_x, self.mean_y = other.count, other.mean_x, other.mean_y
            self.scatter = other.scatter.clone()
            return self
        total = self.count + other.count
        share = other.count / total
        step_x, step_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        self.scatter += other.scatter
        self.scatter += torch.outer(step_x, step_y) * (self.count * share)
        self.mean_x, self.mean_y = self.mean_x + step_x * share, self.mean_y + step_y * share
        self.count = total
        return self

    @property
    def matrix(self) -> Tensor:
        """(D, E) covariance, normalized by the number of pairs."""
        return self.scatter / self.count

    @property
    def second_moment(self) -> Tensor:
        """(D, E) `E[x y^T]`: of probabilities, the chance that two independent draws for a sample are classes i and j.

        >>> Covariance().update(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).second_moment
        tensor([[0.6250, 0.1250],
                [0.1250, 0.1250]], dtype=torch.float64)
        """
        return self.matrix + torch.outer(self.mean_x, self.mean_y)
