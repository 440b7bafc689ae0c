"""BatchNorm's statistics of images as they are at test, in place of those of augmented views.

Crops enlarge what they show, so a network that was trained on them has running statistics of larger objects than it
meets at test (Touvron et al. 2019, "Fixing the train-test resolution discrepancy", section 3). The statistics are
computed anew as in Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3: with the final weights, over
whole batches of equal weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import torch
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from understudy.data import Source, fraction
from understudy.data.cache import decoded
from understudy.evaluation import accuracy, predict_logits
from understudy.models import Network, eval_mode
from understudy.pipeline.representation import Watch
from understudy.randomness import permutation
from understudy.signals import Batch, Signals

BATCH = 128
_MOST = 2_048  # images
_SHARE = 20  # one image in so many that the network was trained on


@dataclass(frozen=True)
class Reestimated:
    """What a network is worth on some images before and after.

    The new statistics stay if they are more accurate, or as accurate at a lower loss. The loss alone would not do: they
    change the scale of the logits, which a temperature makes good.

    Attributes:
        accuracy: of a network without classes, the share of nearest neighbors in common with its teacher.
        loss: mean cross-entropy; None of a network without classes.
    """

    images: int
    accuracy: tuple[float, float]
    loss: tuple[float, float] | None

    @property
    def kept(self) -> bool:
        loss = self.loss or (0.0, 0.0)
        return (self.accuracy[1], -loss[1]) > (self.accuracy[0], -loss[0])

    @property
    def measure(self) -> str:
        return "neighbors in common with the teacher" if self.loss is None else "accuracy"

    def __str__(self) -> str:
        images = f"{self.images:,} images as at test"
        if not self.kept:
            return f"BatchNorm's statistics kept, as those of {images} are not better"
        loss = "" if self.loss is None else f", loss {self.loss[0]:.3f} -> {self.loss[1]:.3f}"
        return (
            f"BatchNorm's statistics taken from {images}: {self.measure} on them {self.accuracy[0]:.1%} -> "
            f"{self.accuracy[1]:.1%}{loss}"
        )


def images_for(trained: int) -> int:
    """How many images the statistics are taken from, after a training on so many.

    >>> images_for(1_000), images_for(20_000), images_for(10**6)
    (128, 1000, 2048)
    """
    return min(_MOST, max(BATCH, trained // _SHARE))


def reestimate(
    network: Network, source: Source, count: int, seed: int, device: torch.device, workers: int = 0,
    watch: Callable[[Source], Watch | None] | None = None,
) -> Reestimated | None:  # fmt: skip
    """Take the running statistics of a trained network's BatchNorm layers from images without augmentation.

    The network keeps its own statistics if the new ones are not better on these images.

    Args:
        source: training samples, labeled if the network has classes.
        count: how many of them to use, at most; stratified by class.
        seed: of the choice.
        workers: processes that decode them.
        watch: what a network without classes is compared with its teacher by.

    Returns:
        What changed; None of a network without such layers, of a source with fewer than two samples, and where there is
        nothing to compare it by.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers or network.frozen or len(source) < 2:
        return None
    rows = fraction(source, min(1.0, count / len(source)), seed)
    # in any order but that of the classes, each of which would be a batch
    some = decoded(source.subset(rows[permutation(len(rows), seed)]), workers)
    watched = None if watch is None else watch(some)
    if watch is not None and watched is None:
        return None

    def worth() -> tuple[float, float]:
        if watched is not None:
            return watched.neighbors(network), 0.0
        found = predict_logits(network, some, device=device)
        assert found.targets is not None
        return accuracy(found.logits, found.targets), float(cross_entropy(found.logits, found.targets))

    own = {name: x.clone() for name, x in network.state_dict().items()}
    before = worth()
    batch = min(BATCH, len(some))
    whole = some.subset(torch.arange(len(some) // batch * batch))
    with eval_mode(network), averaging(layers):

        def passed(batch: Batch) -> Signals:  # a function, so that `predict_logits` leaves the mode alone
            return network(batch)

        predict_logits(passed, whole, device=device, batch_size=batch)
    after = worth()
    loss = (before[1], after[1]) if watched is None else None
    found = Reestimated(len(some), (before[0], after[0]), loss)
    if not found.kept:
        network.load_state_dict(own)
    return found


def summary(found: Sequence[Reestimated]) -> str:
    """What the console says of the networks of a run.

    >>> summary([Reestimated(720, (0.81, 0.83), (0.6, 0.5)), Reestimated(720, (0.85, 0.85), (0.5, 0.6))])
    "BatchNorm's statistics taken from 720 images as at test in 1 of 2 networks: accuracy on them 83.0% -> 84.0%"
    """
    if len(found) == 1:
        return str(found[0])
    before = fmean(one.accuracy[0] for one in found)
    after = fmean(one.accuracy[one.kept] for one in found)
    kept = f"{sum(one.kept for one in found)} of {len(found)} networks"
    return (
        f"BatchNorm's statistics taken from {found[0].images:,} images as at test in {kept}: {found[0].measure} on "
        f"them {before:.1%} -> {after:.1%}"
    )


@contextmanager
def averaging(layers: list[_BatchNorm]) -> Iterator[None]:
    """Reset layers, and let their running statistics be the mean over the batches that pass within the block."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for a cumulative mean
        layer.training = True
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
