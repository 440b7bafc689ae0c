"""Linear CKA: how alike two layers see the same samples (Kornblith, Norouzi, Lee, Hinton 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.data.batches import in_order
from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.logits import evaluating
from understudy.models import Network
from understudy.signals import Signals


class CrossCovariance:
    """Sums of products of centred features, `Xc^T Yc`, over any number of batches; float64, (D, E) in memory.

    Batches are merged about their own means (Chan, Golub, LeVeque 1979), so features far from zero lose nothing.
    """

    def __init__(self) -> None:
        self.count = 0

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add the rows of x (B, D) and y (B, E): the same B samples seen by two layers."""
        x, y = x.double(), y.double()
        mean_x, mean_y, more = x.mean(0), y.mean(0), len(x)
        products = (x - mean_x).T @ (y - mean_y)
        if not self.count:
            self.count, self.mean_x, self.mean_y, self.products = more, mean_x, mean_y, products
            return
        total = self.count + more
        step_x, step_y = mean_x - self.mean_x, mean_y - self.mean_y
        self.products += products + torch.outer(step_x, step_y) * (self.count * more / total)
        self.mean_x, self.mean_y = self.mean_x + step_x * (more / total), self.mean_y + step_y * (more / total)
        self.count = total

    @property
    def norm(self) -> float:
        """The Frobenius norm of the sums."""
        return self.products.norm().item()


def linear_cka(x: Tensor, y: Tensor) -> float:
    """`||Yc^T Xc||_F^2 / (||Xc^T Xc||_F ||Yc^T Yc||_F)`, with Xc, Yc centred over samples: the form in features.

    It equals `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))` of the kernels K = X X^T, L = Y Y^T (equations 1 to 4).

    Args:
        x, y: (N, D) and (N, E), features of the same N samples, at least two.

    Returns:
        0 (nothing in common) to 1 (alike but for a rotation and a scale); 0 where a side never changes.
    """
    if len(x) != len(y) or len(x) < 2:
        raise UnderstudyError(
            f"CKA compares two layers on the same two samples or more; these are of {len(x)} and {len(y)}"
        )
    return alignment(covariance(x, y), covariance(x, x), covariance(y, y))


def covariance(x: Tensor, y: Tensor) -> CrossCovariance:
    """That of two layers whose features are at hand."""
    made = CrossCovariance()
    made.update(x, y)
    return made


@dataclass(frozen=True)
class CKA:
    """`values` (len(rows), len(columns)): the CKA between layers of one network and of another."""

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
    """The CKA between the taps of two networks, in one pass over a source.

    Feature maps are averaged over their positions, tokens over theirs: a sample is described by its channels, the
    image's size does not matter, and memory is the square of the channels. (The alternative, a feature for each
    channel and position, needs the square of tens of thousands.)

    Args:
        one, other: on one device, in any mode; they are left as they were.
        taps, other_taps: "embedding" or paths of layers; None takes the ends of the net's stages and the embedding.

    Raises:
        UnderstudyError: no such layer, or one that puts out no tensor; fewer than two samples that can be read.
    """
    sides = [
        (net, tuple(taps or (*net.shapes().features, "embedding"))) for net, taps in ((one, taps), (other, other_taps))
    ]
    (_, rows), (_, columns) = sides
    before = [net.signals for net, _ in sides]
    cross = {(i, j): CrossCovariance() for i in rows for j in columns}
    own = [{tap: CrossCovariance() for tap in names} for _, names in sides]
    count = 0
    try:
        with torch.inference_mode(), evaluating(one), evaluating(other):
            for batch in in_order(source, batch_size, one.mean.device):
                if not len(batch):
                    continue
                count += len(batch)
                # watched anew for each, as the two may be one and the same network
                x, y = ({tap: _pooled(net.watch(names)(batch), tap) for tap in names} for net, names in sides)
                for (i, j), part in cross.items():
                    part.update(x[i], y[j])
                for parts, seen in zip(own, (x, y), strict=True):
                    for tap, part in parts.items():
                        part.update(seen[tap], seen[tap])
    finally:
        for (net, _), signals in zip(sides, before, strict=True):
            net.watch(signals)
    if count < 2:
        raise UnderstudyError(f"CKA needs two samples or more; {count} of {source.name} could be read")
    values = [[alignment(cross[i, j], own[0][i], own[1][j]) for j in columns] for i in rows]
    return CKA(rows, columns, torch.tensor(values, dtype=torch.float64))


def alignment(cross: CrossCovariance, own: CrossCovariance, other: CrossCovariance) -> float:
    """The linear CKA of two layers, from their covariance and from each one's own."""
    below = own.norm * other.norm
    return min(cross.norm**2 / below, 1.0) if below else 0.0


def _pooled(signals: Signals, tap: str) -> Tensor:
    """(B, D) of vectors (B, D), tokens (B, T, D) or maps (B, C, H, W)."""
    x = signals.embedding if tap == "embedding" else signals.features.get(tap)
    if not isinstance(x, Tensor) or x.dim() < 2:
        raise UnderstudyError(f"layer {tap!r} puts out no features that can be compared; choose another tap")
    return x.mean(1) if x.dim() == 3 else x.flatten(2).mean(2) if x.dim() > 3 else x
