"""What a representation is worth without training: its nearest neighbors, and how many dimensions it uses."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.errors import UnderstudyError

NEIGHBORS, TEMPERATURE = 20, 0.07  # Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers"
SHARED = 10
"""Nearest neighbors that two representations are compared by."""
_UMAP_NEIGHBORS = 15  # its default


def nearest(x: Tensor, keys: Tensor | None = None, count: int = NEIGHBORS) -> tuple[Tensor, Tensor]:
    """The nearest keys of each row by cosine, nearest first: similarities and indices, (N, count) each.

    Args:
        x: (N, D).
        keys: (K, D); the other rows of x where None.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> nearest(x, count=1)[1].flatten().tolist()
    [1, 0, 1]
    """
    unit = F.normalize(x.float(), dim=1)
    similar = unit @ (unit if keys is None else F.normalize(keys.float(), dim=1)).T
    if keys is None:
        similar.fill_diagonal_(-torch.inf)
    found = similar.topk(min(count, similar.shape[1] - (keys is None)), 1)
    return found.values, found.indices


def knn_accuracy(
    x: Tensor, targets: Tensor, keys: Tensor | None = None, key_targets: Tensor | None = None, count: int = NEIGHBORS
) -> float:
    """The share of rows whose class has the most weight among their nearest keys, each of weight `exp(cos / 0.07)`.

    Args:
        x, targets: (N, D) and (N,) int64.
        keys, key_targets: (K, D) and (K,); the other rows of x where None.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> knn_accuracy(x, torch.tensor([0, 0, 1, 1]), count=1)
    1.0
    """
    similar, index = nearest(x, keys, count)
    labels = (targets if key_targets is None else key_targets)[index]
    votes = torch.zeros(len(x), int(max(labels.max(), targets.max())) + 1)
    votes.scatter_add_(1, labels, (similar / TEMPERATURE).exp())
    return float((votes.argmax(1) == targets).float().mean())


def neighbor_agreement(x: Tensor, y: Tensor, count: int = SHARED) -> float:
    """The share of the nearest neighbors of a sample among the others that two representations have in common.

    Args:
        x, y: (N, D) and (N, E), of the same samples.
        count: of neighbors, but at most a fifth of the others, as by chance `count / (N - 1)` are in common.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> neighbor_agreement(x, 3 * x, count=1)
    1.0
    """
    count = min(count, max((len(x) - 1) // 5, 1))
    own, other = nearest(x, count=count)[1], nearest(y, count=count)[1]
    return float((own[:, :, None] == other[:, None, :]).any(2).float().mean())


def effective_rank(x: Tensor) -> float:
    """`exp` of the entropy of the singular values of the centered embeddings (N, D) as shares (Roy and Vetterli 2007).

    1 where all lie on a line, 0 where they are all the same: the representation has collapsed.

    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(effective_rank(x), 3), effective_rank(0 * x)
    (2.0, 0.0)
    """
    values = torch.linalg.svdvals((x - x.mean(0)).double())
    total = float(values.sum())
    return float(torch.special.entr(values / total).sum().exp()) if total > 1e-12 * max(float(x.norm()), 1e-30) else 0.0


def gap_closed(start: float, student: float, teacher: float) -> float | None:
    """The share of the way from the student at its start to the teacher; None if the teacher is not ahead.

    >>> round(gap_closed(0.2, 0.8, 1.0), 2), gap_closed(0.5, 0.6, 0.5)
    (0.75, None)
    """
    return (student - start) / (teacher - start) if teacher > start else None


def side_by_side(spaces: list[Tensor]) -> Tensor:
    """Several teachers' embeddings of the same samples as one, (N, sum D): each centered, of unit length, side by side.

    >>> side_by_side([torch.eye(2), torch.eye(2)]).shape
    torch.Size([2, 4])
    """
    return spaces[0] if len(spaces) == 1 else torch.cat([F.normalize(x - x.mean(0), dim=1) for x in spaces], 1)


def principal_plane(x: Tensor) -> Tensor:
    """(N, 2): the embeddings (N, D) on their two principal components, in units of the first one's deviation."""
    centered = (x - x.mean(0)).double()
    left, values, _ = torch.linalg.svd(centered, full_matrices=False)
    plane = left[:, :2] * values[:2]
    plane = F.pad(plane, (0, 2 - plane.shape[1]))
    return (plane / plane[:, 0].std().clamp_min(1e-12)).float()


def plane(x: Tensor) -> tuple[Literal["UMAP", "PCA"], Tensor]:
    """The embeddings (N, D) in a plane, (N, 2): by UMAP if umap-learn is installed, else on two principal components.

    UMAP (McInnes et al. 2018) keeps neighbors together, by cosine here; it looks at 15 of them, so fewer samples are
    shown on principal components.

    >>> plane(torch.eye(4))[0]
    'PCA'
    """
    if len(x) <= _UMAP_NEIGHBORS:
        return "PCA", principal_plane(x)
    try:
        from umap import UMAP  # type: ignore[import-not-found]
    except ImportError:
        return "PCA", principal_plane(x)
    umap = UMAP(n_neighbors=_UMAP_NEIGHBORS, metric="cosine", random_state=0, n_jobs=1)
    found = torch.from_numpy(umap.fit_transform(x.float().numpy())).float()
    return "UMAP", (found - found.mean(0)) / found[:, 0].std().clamp_min(1e-12)


def check_embeddings(x: Tensor, name: str) -> Tensor:
    """The embeddings themselves.

    Raises:
        UnderstudyError: they are not finite, or all the same.
    """
    if not bool(x.isfinite().all()):
        raise UnderstudyError(f"the embeddings of {name} are not finite (NaN or infinite); check its weights")
    if len(x) > 1 and bool((x == x[0]).all()):
        raise UnderstudyError(f"the embeddings of {name} are the same for all images; check its weights")
    return x
