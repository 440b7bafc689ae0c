"""Linear probes: logistic regression on the penultimate layer of a frozen network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data import Source, stratified_split
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import Probe
from understudy.evaluation.logits import default_batch_size, predict_logits
from understudy.models import Network, eval_mode
from understudy.signals import Batch, Signals

HELD_OUT = 0.2  # fraction of the training samples of each class that selects the weight decay
DECAYS = tuple(10.0**-power for power in range(7))  # strongest first
_ITERATIONS = 1000


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The penultimate layers of networks for a source, on the CPU."""

    source: Source  # the samples that could be read, without inputs
    by_network: dict[str, Tensor]  # (N, D) float32

    @property
    def targets(self) -> Tensor:
        """(N,) int64 of a labeled source."""
        assert self.source.targets is not None
        return self.source.targets


def extract_embeddings(
    networks: Mapping[str, Network], source: Source, *, batch_size: int = 500, skipped: dict[str, str] | None = None
) -> Embeddings:
    """Embed a labeled source with networks on one device in one pass; their modes and taps are restored.

    The networks need a linear classifier, but its classes are not used. `skipped` is as for `predict_logits`.
    """
    if source.targets is None:
        raise UnderstudyError(f"{source.name} has no labels, which a linear probe needs; use a labeled set")
    return embed(networks, source, batch_size=batch_size, skipped=skipped)


def embed(
    networks: Mapping[str, Network], source: Source, *, batch_size: int | None = None,
    skipped: dict[str, str] | None = None,
) -> Embeddings:  # fmt: skip
    """`extract_embeddings` of a source with labels or without; the batches are as large as the images allow."""
    batch_size = batch_size or default_batch_size(source, *networks.values())
    parts: dict[str, list[Tensor]] = {name: [] for name in networks}
    watched = {name: network.signals for name, network in networks.items()}
    device = next(iter(networks.values())).mean.device

    def embed(batch: Batch) -> Signals:
        outputs: list[Signals] = []
        for name, network in networks.items():
            with eval_mode(network):
                outputs.append(network(batch))
            embedding = outputs[-1].embedding
            assert embedding is not None
            parts[name].append(embedding.float().cpu())
        return outputs[0]

    try:
        for name, network in networks.items():
            try:
                network.watch({"embedding"})
            except UnderstudyError as error:
                raise UnderstudyError(f"{name} cannot be probed: {error}") from error
        found = predict_logits(embed, source, device=device, batch_size=batch_size, skipped=skipped)
    finally:
        for name, network in networks.items():
            network.watch(watched[name])
    readable = Source(source.name, source.classes, found.ids, found.targets, source.shape)
    return Embeddings(readable, {name: torch.cat(batches) for name, batches in parts.items()})


def linear_probe(train: Embeddings, test: Embeddings, name: str) -> Probe:
    """Probe the representation of a network.

    The weight decay, of `DECAYS`, is the best on a held-out fifth of the training samples of each class (the stronger
    in a tie); the classifier is then refitted on all training samples and scored once on the test set. Test samples of
    classes without training samples count as errors.

    >>> source = Source("toy", ("a", "b"), torch.arange(20), torch.arange(20) % 2, (1,))
    >>> features = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[source.targets]
    >>> embeddings = Embeddings(source, {"net": features})
    >>> linear_probe(embeddings, embeddings, "net")
    Probe(accuracy=1.0, errors=0, validation_accuracy=1.0, weight_decay=1.0, width=2)
    """
    labels = train.targets.unique().tolist()
    if len(labels) < 2:
        only = train.source.classes[labels[0]] if train.source.classes else labels[0]
        raise UnderstudyError(f"{train.source.name} has a single class, {only}; a probe needs at least two")
    x, y = _array(train, name), train.targets.numpy()
    kept, held = (rows.numpy() for rows in hold_out(train.source))
    best, best_decay = -1.0, DECAYS[0]
    model = None
    for decay in DECAYS:
        model = fit_logistic(x[kept], y[kept], decay, start=model)
        accuracy = float(model.score(x[held], y[held]))
        if accuracy > best:
            best, best_decay = accuracy, decay
    predicted = fit_logistic(x, y, best_decay).predict(_array(test, name))
    errors = int((predicted != test.targets.numpy()).sum())
    return Probe(
        accuracy=1 - errors / len(predicted), errors=errors, validation_accuracy=best, weight_decay=best_decay,
        width=x.shape[1],
    )  # fmt: skip


def hold_out(source: Source) -> tuple[Tensor, Tensor]:
    """Row indices, int64, of (kept, held-out) samples: `HELD_OUT` of each class is held out."""
    kept, held = stratified_split(source, HELD_OUT, 0)
    if not len(held):
        raise UnderstudyError(
            f"{source.name} has one sample per class, so none can be held out; use a set with two or more"
        )
    return kept, held


def fit_logistic(x: np.ndarray, y: np.ndarray, decay: float, *, start: Any = None, floor: float = 0.0) -> Any:
    """Multinomial logistic regression of y, (N,), on x, (N, D), which is standardized: a scikit-learn pipeline.

    L-BFGS minimizes the mean cross-entropy plus `decay / 2 ||W||^2`; the intercept is not regularized. Because of the
    mean, the strength of a decay does not depend on the number of samples. `start` is a fit of the same data with
    another decay, as a warm start. With a `floor`, features are divided by no less than this part of the median
    deviation, so that one which hardly varies here does not decide where it varies more, as in augmented views.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    class Floored(StandardScaler):
        def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
            super().fit(X, y, sample_weight)
            self.scale_ = np.maximum(self.scale_, floor * np.median(self.scale_))
            return self

    model = start or make_pipeline(Floored(), LogisticRegression(max_iter=_ITERATIONS, warm_start=True))
    model.set_params(logisticregression__C=1 / (decay * len(x)))
    with warnings.catch_warnings():
        # with separable classes and weak decays L-BFGS hardly converges; the accuracy does
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def _array(embeddings: Embeddings, name: str) -> np.ndarray:
    x = embeddings.by_network[name].double().numpy()
    if not np.isfinite(x).all():
        where = f"its embeddings of {embeddings.source.name}"
        raise UnderstudyError(f"{name} cannot be probed: {where} are not finite; train it again")
    return x
