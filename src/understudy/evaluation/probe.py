"""Linear probes: how well a linear classifier reads classes from a frozen network's penultimate layer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data import Source, stratified_split
from understudy.data.batches import in_order
from understudy.errors import UnderstudyError
from understudy.evaluation.logits import evaluating
from understudy.models import Network

HELD_OUT = 0.2  # of each class's training samples, for choosing the regularisation
DECAYS = tuple(10.0**-power for power in range(7))  # from strong to weak
_ITERATIONS = 1000


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What networks make of a source: their frozen penultimate layers, on the CPU.

    Attributes:
        source: the samples that could be read, without their inputs; all have labels.
        by_network: name -> (N, D) float32.
    """

    source: Source
    by_network: dict[str, Tensor]

    @property
    def targets(self) -> Tensor:
        """(N,) int64."""
        assert self.source.targets is not None
        return self.source.targets


def embeddings_of(
    networks: Mapping[str, Network],
    source: Source,
    *,
    batch_size: int = 500,
    set_aside: dict[str, str] | None = None,
) -> Embeddings:
    """Embed a labelled source by several networks in one pass, unvaried; the networks stay as they were.

    Each network reads the images in its own size, channels and scale. Their classes play no part.

    Args:
        networks: at least one, all on one device.
        set_aside: record name -> reason, filled in for records that could not be decoded.

    Raises:
        UnderstudyError: no labels, no sample that could be read, or a network without a linear classifier.
    """
    if source.targets is None:
        raise UnderstudyError(f"{source.name} has no labels for a linear probe to learn; give a labelled set")
    ids: list[Tensor] = []
    targets: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {name: [] for name in networks}
    before = {name: network.signals for name, network in networks.items()}
    device = next(iter(networks.values())).mean.device
    try:
        for name, network in networks.items():
            _watch(name, network)
        with torch.inference_mode():
            for batch in in_order(source, batch_size, device, set_aside=set_aside):
                if not len(batch):
                    continue
                assert batch.targets is not None
                ids.append(batch.ids.cpu())
                targets.append(batch.targets.cpu())
                for name, network in networks.items():
                    with evaluating(network):
                        embedding = network(batch).embedding
                    if embedding is None:
                        raise UnderstudyError(f"{name} cannot be probed: its last linear layer is not part of its pass")
                    parts[name].append(embedding.float().cpu())
    finally:
        for name, network in networks.items():
            network.watch(before[name])
    if not ids:
        raise UnderstudyError(f"no sample of {source.name} could be read; check its files")
    seen = Source(source.name, source.classes, torch.cat(ids), torch.cat(targets), source.shape)
    return Embeddings(seen, {name: torch.cat(own) for name, own in parts.items()})


def _watch(name: str, network: Network) -> None:
    try:
        network.watch({"embedding"})
    except UnderstudyError as error:
        raise UnderstudyError(f"{name} cannot be probed: {error}; probe networks that end in a linear layer") from error


@dataclass(frozen=True, slots=True)
class Probe:
    """What a linear probe reached.

    Attributes:
        accuracy: on the test part.
        errors: on the test part.
        validation_accuracy: on the part that chose the regularisation, before the last fit.
        weight_decay: the chosen one; see `fit_logistic`.
        width: D, of the representation.
    """

    accuracy: float
    errors: int
    validation_accuracy: float
    weight_decay: float
    width: int


def linear_probe(train: Embeddings, test: Embeddings, name: str) -> Probe:
    """Probe one network's representation.

    A fifth of each class's training samples, chosen by their ids' hashes, chooses the weight decay of `DECAYS` (the
    stronger where two do alike); the classifier is then fitted anew on all training samples, and scored once on the
    test part. Samples of a class that the training part lacks count as errors.

    Raises:
        UnderstudyError: one class only, too few samples for a validation part, or embeddings that are not finite.
    """
    labels = train.targets.unique().tolist()
    if len(labels) < 2:
        only = train.source.classes[labels[0]] if train.source.classes else labels[0]
        raise UnderstudyError(f"{train.source.name} has one class only, {only}; a probe tells at least two apart")
    x, y = _array(train, name), train.targets.numpy()
    kept, held = (rows.numpy() for rows in hold_out(train.source))
    best, chosen = -1.0, DECAYS[0]
    fitted = None
    for decay in DECAYS:
        fitted = fit_logistic(x[kept], y[kept], decay, start=fitted)
        right = float(fitted.score(x[held], y[held]))
        if right > best:
            best, chosen = right, decay
    said = fit_logistic(x, y, chosen).predict(_array(test, name))
    wrong = int((said != test.targets.numpy()).sum())
    return Probe(1 - wrong / len(said), wrong, best, chosen, x.shape[1])


def hold_out(source: Source) -> tuple[Tensor, Tensor]:
    """Row numbers (int64) (kept, held out): `HELD_OUT` of each class."""
    kept, held = stratified_split(source, HELD_OUT, 0)
    if not len(held):
        raise UnderstudyError(
            f"{source.name} has one sample a class, of which none can be held out; give two or more of a class"
        )
    return kept, held


def fit_logistic(x: np.ndarray, y: np.ndarray, decay: float, *, start: Any = None) -> Any:
    """Multinomial logistic regression on standardised features, by L-BFGS.

    It minimises the mean cross-entropy plus `decay / 2 ||W||^2`; the intercept is free. The mean makes a decay
    stand for the same strength whatever the number of samples.

    Args:
        x: (N, D), standardised by its own mean and deviation.
        y: (N,) class indices.
        start: a classifier of this function, fitted on the same data, to go on from.

    Returns:
        scikit-learn's pipeline, with `predict`, `predict_proba` and `score`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = start or make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS, warm_start=True))
    model.set_params(logisticregression__C=1 / (decay * len(x)))
    with warnings.catch_warnings():
        # classes that can be told apart draw weak decays on for ever; a probe is judged by its accuracy
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def _array(embeddings: Embeddings, name: str) -> np.ndarray:
    x = embeddings.by_network[name].double().numpy()
    if not np.isfinite(x).all():
        raise UnderstudyError(
            f"{name} cannot be probed: its representation of {embeddings.source.name} is not finite; train it anew"
        )
    return x
