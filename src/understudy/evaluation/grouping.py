"""Classes that are predicted together, from the covariance of predictions (Hinton et al. 2015, section 5.2)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from understudy.errors import UnderstudyError

_MANY = 2_000  # classes beyond which columns are clustered in mini-batches
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
    """Cluster the columns of a covariance matrix by K-means.

    As they are, as in the paper, columns differ most by their class's own variance, far larger than any covariance: a
    generalist that is seldom in doubt gives columns that are all equally far from one another. As correlations, of
    length one, they tell of what a class is taken for and not of how often.

    Args:
        covariance: (C, C).
        clusters: how many groups, from 2 to C.
        columns: "correlation", divided by the classes' deviations and brought to length one; or "covariance", as they
            are.
        group_size: take each cluster's nearest `group_size` classes, so that groups overlap or leave classes out; where
            None the clusters themselves, which hold each class once.
        seed: of the first centres.
        online: in mini-batches (Sculley 2010); where None, beyond 2,000 classes.

    Returns:
        Rising class indices of each group; groups are in the order of their first class.

    Raises:
        UnderstudyError: numbers that do not fit the classes, or a matrix that is not finite or does not tell as many
            classes apart.
    """
    classes = len(covariance)
    if clusters < 2:
        raise UnderstudyError(f"{clusters} cluster would hold every class; ask for 2 or more")
    if clusters > classes:
        raise UnderstudyError(f"{clusters} clusters are more than the {classes} classes; ask for fewer")
    if group_size is not None and not 1 <= group_size < classes:
        raise UnderstudyError(
            f"groups of {group_size} do not fit {classes} classes: a group has at least 1 class and leaves one for "
            f"the dustbin; ask for {classes - 1} or fewer"
        )
    points = covariance.double().cpu().numpy().T
    if not np.isfinite(points).all():
        raise UnderstudyError("the covariance holds NaN or infinite values; classes cannot be grouped by it")
    if columns == "correlation":
        tiny = np.finfo(float).tiny
        deviation = np.sqrt(np.diag(points).clip(tiny))
        points = points / deviation / deviation[:, None]
        points /= np.linalg.norm(points, axis=1, keepdims=True).clip(tiny)
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    # scaled to a spread of one: K-means stops at an absolute distance
    points = points / max(float(points.std()), np.finfo(float).tiny)
    if len(np.unique(points.round(9), axis=0)) < clusters:
        raise UnderstudyError(
            f"the predictions do not tell {clusters} groups of classes apart; ask for fewer clusters, or give a "
            "generalist that has learnt more"
        )
    kind: Any = MiniBatchKMeans if (classes > _MANY if online is None else online) else KMeans
    means = kind(clusters, n_init=10, random_state=seed % 2**32)
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
    """How far groups agree with others that are known, in [-0.5, 1]: 1 where they are the same, 0 as by chance.

    Both must hold the same classes, each once (Hubert and Arabie 1985).
    """
    found, known = ({c: number for number, group in enumerate(one) for c in group} for one in (groups, planted))
    assert found.keys() == known.keys(), "two partitions of the same classes"
    from sklearn.metrics import adjusted_rand_score

    classes = sorted(found)
    return float(adjusted_rand_score([known[c] for c in classes], [found[c] for c in classes]))


def order_by_group(groups: Sequence[Group], classes: int) -> list[int]:
    """Every class once, each group's together; a class of several stands with the first, one of none at the end."""
    return list(dict.fromkeys([c for group in groups for c in group] + [*range(classes)]))


def confusion_held(together: Tensor, groups: Sequence[Group]) -> list[float]:
    """The share of all expected confusion between two classes that lies within each group, in [0, 1].

    Args:
        together: (C, C) `E[p p']` of the predictions; its sum off the diagonal is how often two draws from one
            prediction differ.
    """
    off = together.clone().fill_diagonal_(0)
    total = max(float(off.sum()), np.finfo(float).tiny)
    return [float(off[list(group)][:, list(group)].sum()) / total for group in groups]
