"""What a backbone is worth before anything is trained: its own head, a linear probe and nearest neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data import Source, fraction
from understudy.errors import UnderstudyError
from understudy.evaluation.probe import DECAYS, extract_embeddings, fit_logistic
from understudy.models import Network, fold
from understudy.models.heads import outputs_of

FOLDS = 5
BATCH = 32
"""Samples of a forward pass: enough for a CPU, and few enough for its caches."""
MOST = 20_000
"""Samples that a head is fitted to; the decay is chosen on a fifth of them."""
_NEIGHBORS, _TEMPERATURE = 20, 0.07  # Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers"
_FLOOR = 0.1  # of the median deviation
_STRONG = 1e-2  # the decay where there are too few samples to choose one


@dataclass(frozen=True)
class FrozenScores:
    """Accuracies of a frozen backbone by stratified cross-validation, each None where it cannot be measured.

    Attributes:
        samples: that were embedded.
        given: of its own head on these samples, if that predicts their classes.
        probe: of a logistic regression on its embeddings.
        neighbors: of the 20 nearest neighbors, weighted as in DINO.
        decay: of the logistic regression, the best by its cross-entropy.
        right: id -> whether the logistic regression of the other folds classifies this sample right.
    """

    samples: int
    given: float | None
    probe: float | None
    neighbors: float | None
    decay: float
    right: Mapping[int, bool]

    @property
    def keeps_own(self) -> bool:
        """Whether its own head is at least as good as the probe's."""
        return self.given is not None and self.given >= (self.probe or 0.0)

    def __str__(self) -> str:
        named = {"as given": self.given, "linear probe": self.probe, "nearest neighbors": self.neighbors}
        known = ", ".join(f"{name} {value:.1%}" for name, value in named.items() if value is not None)
        folds = f" ({FOLDS}-fold cross-validation on {self.samples:,} training samples)" if self.probe else ""
        return f"frozen: {known or f'{self.samples:,} samples are too few to tell'}{folds}"


def fit_head(network: Network, source: Source, *, own: bool = False, seed: int = 0) -> FrozenScores:
    """Set the classifier of a network to a logistic regression on its frozen embeddings of a labeled source.

    Args:
        network: on any device, with one linear classifier for the classes of the source.
        source: at most `MOST` of its samples are used.
        own: whether the network's own head predicts these classes; it is kept if it is at least as accurate.
        seed: of the choice of samples and of the folds.

    Raises:
        UnderstudyError: its logits are not those of one linear classifier, or there is a single class.
    """
    if len(network.heads) > 1:
        raise UnderstudyError(f"{network.name} has several classifiers, which a probe cannot be; pass --head zero")
    ((path, head),) = network.heads.items()
    some = source.subset(fraction(source, min(1.0, MOST / len(source)), seed))
    embedded = extract_embeddings({path: fold(network)}, some, batch_size=BATCH)
    x, y = embedded.by_network[path].double().numpy(), embedded.targets.numpy()
    if len(np.unique(y)) < 2:
        raise UnderstudyError(f"{source.name} has a single class in its training part; a classifier needs two")
    weight, bias = _parameters(head)
    if x.shape[1] != weight.shape[1]:
        raise UnderstudyError(f"the logits of {network.name} are not those of a linear classifier; pass --head zero")
    given = float(((x @ weight.T + bias).argmax(1) == y).mean()) if own else None
    scores = replace(cross_validated(x, y, embedded.source.ids.tolist(), seed), samples=len(y), given=given)
    if not scores.keeps_own:
        set_head(network, *linear_map(fit_logistic(x, y, scores.decay, floor=_FLOOR), outputs_of(head)))
    return scores


def set_head(network: Network, weight: Tensor, bias: Tensor) -> None:
    """Set the one classifier of a network, (C, D) and (C,), so that its logits are `weight @ embedding + bias`."""
    (head,) = network.heads.values()
    with torch.no_grad():
        head.weight.copy_(weight.view_as(head.weight))
        if head.bias is None:
            network.class_bias = bias.to(network.mean)
        else:
            head.bias.copy_(bias)
            network.class_bias = None


def cross_validated(x: np.ndarray, y: np.ndarray, ids: Sequence[int], seed: int) -> FrozenScores:
    """Scores of embeddings (N, D) for labels (N,), by stratified folds; of few samples a class, fewer folds."""
    from sklearn.model_selection import StratifiedKFold

    rows = np.random.default_rng(seed).permutation(len(y))[: max(MOST // 5, 1)]
    x, y, ids = x[rows], y[rows], [ids[row] for row in rows]
    folds = min(FOLDS, int(np.unique(y, return_counts=True)[1].min()))
    if folds < 2:
        return FrozenScores(len(y), None, None, None, _STRONG, {})
    parts = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y))
    best, decay, best_right, models = np.inf, _STRONG, np.zeros(len(y), bool), [None] * folds
    for tried in DECAYS:  # strongest first, each from the last; the loss falls, then rises
        losses, right = np.empty(len(y)), np.empty(len(y), bool)
        for number, (kept, held) in enumerate(parts):
            models[number] = model = fit_logistic(x[kept], y[kept], tried, start=models[number], floor=_FLOOR)
            found = model.predict_log_proba(x[held])
            losses[held] = -found[np.arange(len(held)), np.searchsorted(model.classes_, y[held])]
            right[held] = model.classes_[found.argmax(1)] == y[held]
        if losses.mean() >= best:
            break
        best, decay, best_right = float(losses.mean()), tried, right
    probe, right = float(best_right.mean()), dict(zip(ids, best_right.tolist(), strict=True))
    return FrozenScores(len(y), None, probe, _neighbors(x, y, parts), decay, right)


def _neighbors(x: np.ndarray, y: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]]) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    def closeness(distance: np.ndarray) -> np.ndarray:
        return np.exp(-distance / _TEMPERATURE)

    weights: Any = closeness  # a function, unlike what its stub says
    right = 0
    for kept, held in parts:
        nearest = KNeighborsClassifier(min(_NEIGHBORS, len(kept)), metric="cosine", weights=weights)
        right += int((nearest.fit(x[kept], y[kept]).predict(x[held]) == y[held]).sum())
    return right / len(y)


def linear_map(model: object, classes: int) -> tuple[Tensor, Tensor]:
    """The weights (C, D) and biases (C,) that do what a fit of `fit_logistic` does.

    A class without samples gets a logit far below the others.
    """
    scaler, regression = model  # type: ignore[misc]
    weight = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weight @ scaler.mean_
    if len(weight) == 1:  # of two classes, scikit-learn keeps the second's
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full_weight, full_bias = np.zeros((classes, weight.shape[1])), np.full(classes, bias.min() - 20.0)
    full_weight[regression.classes_], full_bias[regression.classes_] = weight, bias
    return torch.from_numpy(full_weight).float(), torch.from_numpy(full_bias).float()


def _parameters(head: torch.nn.Linear | torch.nn.Conv2d) -> tuple[np.ndarray, np.ndarray]:
    weight = head.weight.detach().double().cpu().flatten(1).numpy()
    return weight, np.zeros(len(weight)) if head.bias is None else head.bias.detach().double().cpu().numpy()
