"""Linear CKA: the similarity of two layers' representations (Kornblith, Norouzi, Lee and Hinton 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.data.loader import in_order
from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.covariance import Covariance
from understudy.models import Network, eval_mode
from understudy.signals import Signals


def linear_cka(x: Tensor, y: Tensor) -> float:
    """`||Yc^T Xc||_F^2 / (||Xc^T Xc||_F ||Yc^T Yc||_F)` with Xc, (N, D), and Yc, (N, E), centered over samples.

    Equal to `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))` with the kernels K = X X^T and L = Y Y^T (equations 1 to 4).
    1 if both are equal up to a rotation, an isotropic scale and a shift; 0 if either is constant.

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> round(linear_cka(x, 3 * x.flip(1) + 1), 3), round(linear_cka(x, x[:, :1]), 3)
    (1.0, 0.459)
    """
    if len(x) != len(y) or len(x) < 2:
        raise UnderstudyError(f"CKA needs the same two or more samples on both sides; it got {len(x)} and {len(y)}")
    return cka_from_covariances(Covariance().update(x, y), Covariance().update(x), Covariance().update(y))


def cka_from_covariances(cross: Covariance, x: Covariance, y: Covariance) -> float:
    """Linear CKA from the cross-covariance of two layers and the covariance of each."""
    xy, xx, yy = (part.scatter.norm().item() for part in (cross, x, y))
    return min(xy**2 / (xx * yy), 1.0) if xx * yy else 0.0


@dataclass(frozen=True)
class CKA:
    """`values`, (len(rows), len(columns)): the CKA between layers of one network and of another."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor


def cka_between(
    one: Network,
    other: Network,
    source: Source,
    *,
    taps: Sequence[str] | None = None,
    other_taps: Sequence[str] | None = None,
    batch_size: int = 500,
) -> CKA:
    """The CKA between taps of two networks on one device, in one pass over a source.

    Taps are "embedding" or layer paths, by default the ends of the stages and the embedding. Feature maps and tokens
    are averaged over positions: the features of a sample are its channels, whatever the image size.
    """
    sides = [
        (net, tuple(taps or (*net.shapes().features, "embedding"))) for net, taps in ((one, taps), (other, other_taps))
    ]
    (_, rows), (_, columns) = sides
    watched = [net.signals for net, _ in sides]
    cross = {(i, j): Covariance() for i in rows for j in columns}
    own = [{tap: Covariance() for tap in names} for _, names in sides]
    count = 0
    try:
        with torch.inference_mode(), eval_mode(one), eval_mode(other):
            for batch in in_order(source, batch_size, one.mean.device):
                if not len(batch):
                    continue
                count += len(batch)
                # watched in each pass, as both may be the same network
                x, y = ({tap: _pooled(net.watch(names)(batch), tap) for tap in names} for net, names in sides)
                for (i, j), covariance in cross.items():
                    covariance.update(x[i], y[j])
                for covariances, features in zip(own, (x, y), strict=True):
                    for tap, covariance in covariances.items():
                        covariance.update(features[tap])
    finally:
        for (net, _), signals in zip(sides, watched, strict=True):
            net.watch(signals)
    if count < 2:
        raise UnderstudyError(f"CKA needs two samples or more, but {count} of {source.name} could be read")
    values = [[cka_from_covariances(cross[i, j], own[0][i], own[1][j]) for j in columns] for i in rows]
    return CKA(rows, columns, torch.tensor(values, dtype=torch.float64))


def _pooled(signals: Signals, tap: str) -> Tensor:
    """(B, D) from vectors (B, D), tokens (B, T, D) or feature maps (B, C, H, W)."""
    x = signals.embedding if tap == "embedding" else signals.features.get(tap)
    if not isinstance(x, Tensor) or x.dim() < 2:
        raise UnderstudyError(f"layer {tap!r} outputs no features to compare; choose another tap")
    return x.mean(1) if x.dim() == 3 else x.flatten(2).mean(2) if x.dim() > 3 else x
