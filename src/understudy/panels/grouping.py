"""Clustering classes by the covariance of predictions (Hinton, Vinyals and Dean 2015, section 5.2)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from understudy.errors import UnderstudyError

_MANY = 2_000  # classes above which mini-batch K-means is used
Group = tuple[int, ...]
Columns = Literal["correlation", "covariance"]


def group_classes(
    covariance: Tensor,
    clusters: int,
    *,
    columns: Columns = "correlation",
    group_size: int | None = None,
    seed: int = 0,
    online: bool | None = None,
) -> list[Group]:
    """Cluster the columns of a covariance matrix of predictions with K-means.

    The paper clusters the columns of the covariance matrix itself. For a confident generalist these are dominated by
    the variances on the diagonal, which makes all columns nearly equidistant. Unit-norm columns of the correlation
    matrix show which classes are confused, regardless of how often.

    Args:
        covariance: (C, C).
        group_size: number of classes per group, those closest to each cluster center, so that groups may overlap or
            omit classes. By default groups are the clusters: a partition of the classes.
        online: use mini-batch K-means (Sculley 2010); by default above 2,000 classes.

    Returns:
        Ascending class indices of each group, groups sorted by their first class.

    Raises:
        UnderstudyError: if the matrix is not finite or has too few distinct columns.

    Example:
        Classes 0 and 2 are confused with each other, and so are 1 and 3:

        >>> import torch
        >>> covariance = torch.tensor([[4., 0, 2, 0], [0, 4, 0, 1], [2, 0, 4, 0], [0, 1, 0, 4]])
        >>> group_classes(covariance, 2)
        [(0, 2), (1, 3)]
    """
    classes = len(covariance)
    if clusters < 2:
        raise UnderstudyError(f"clusters must be at least 2; got {clusters}")
    if clusters > classes:
        raise UnderstudyError(f"clusters must be at most {classes}, the number of classes; got {clusters}")
    if group_size is not None and not 1 <= group_size < classes:
        raise UnderstudyError(
            f"group_size must be between 1 and {classes - 1}, which leaves one of {classes} classes for the dustbin; "
            f"got {group_size}"
        )
    points = covariance.double().cpu().numpy().T
    if not np.isfinite(points).all():
        raise UnderstudyError("the covariance has NaN or infinite values; check the generalist's predictions")
    if columns == "correlation":
        tiny = np.finfo(float).tiny
        deviation = np.sqrt(np.diag(points).clip(tiny))
        points = points / deviation / deviation[:, None]
        points /= np.linalg.norm(points, axis=1, keepdims=True).clip(tiny)
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    # unit variance, since the stopping tolerance of mini-batch K-means is absolute
    points = points / max(float(points.std()), np.finfo(float).tiny)
    if len(np.unique(points.round(9), axis=0)) < clusters:
        raise UnderstudyError(
            f"the predictions do not separate {clusters} groups of classes; use fewer clusters or a better-trained "
            "generalist"
        )
    algorithm: Any = MiniBatchKMeans if (classes > _MANY if online is None else online) else KMeans
    means = algorithm(clusters, n_init=10, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        label = means.fit_predict(points)
    if group_size is None:
        groups = [tuple(np.flatnonzero(label == k).tolist()) for k in range(clusters)]
    else:
        nearest = means.transform(points).argsort(0, kind="stable")[:group_size]
        groups = [tuple(sorted(nearest[:, k].tolist())) for k in range(clusters)]
    return sorted(group for group in groups if group)


def adjusted_rand(groups: Sequence[Group], planted: Sequence[Group]) -> float:
    """Adjusted Rand index of two partitions of the same classes: 1 if identical, 0 by chance (Hubert and Arabie 1985).

    Example:
        >>> adjusted_rand([(0, 1), (2, 3)], [(2, 3), (0, 1)])
        1.0
    """
    from sklearn.metrics import adjusted_rand_score

    found, known = ({c: number for number, group in enumerate(one) for c in group} for one in (groups, planted))
    assert found.keys() == known.keys(), "two partitions of the same classes"
    classes = sorted(found)
    return float(adjusted_rand_score([known[c] for c in classes], [found[c] for c in classes]))


def order_by_group(groups: Sequence[Group], classes: int) -> list[int]:
    """A permutation of the classes with each group contiguous; classes in no group come last.

    Example:
        >>> order_by_group([(1, 3), (0, 3)], 5)
        [1, 3, 0, 2, 4]
    """
    return list(dict.fromkeys([c for group in groups for c in group] + [*range(classes)]))


def confusion_within(together: Tensor, groups: Sequence[Group]) -> list[float]:
    """Fraction of the expected confusion within each group, from the (C, C) `E[p p']` of the predictions.

    The sum of its off-diagonal entries is the probability that two draws from one prediction differ.

    Example:
        >>> import torch
        >>> confusion_within(torch.tensor([[0.4, 0.1, 0.0], [0.1, 0.3, 0.0], [0.0, 0.0, 0.1]]), [(0, 1), (2,)])
        [1.0, 0.0]
    """
    off = together.clone().fill_diagonal_(0)
    total = max(float(off.sum()), np.finfo(float).tiny)
    return [float(off[list(group)][:, list(group)].sum()) / total for group in groups]
