"""The mistakes that a network is surest of, with their images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from understudy.data.source import Source
from understudy.evaluation.facts import Mistake
from understudy.evaluation.gallery import written
from understudy.evaluation.logits import Predictions


def surest_mistakes(logits: Tensor, targets: Tensor, count: int) -> Tensor:
    """At most `count` row numbers of misclassified examples, the most confident first; of equals the first.

    >>> surest_mistakes(torch.tensor([[3.0, 0.0], [9.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 0, 1]), 2)
    tensor([0, 2])
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    order = confidence.argsort(descending=True, stable=True)
    return order[(predicted != targets)[order]][:count]


def mistakes(
    source: Source, predictions: Predictions, teacher: Predictions | None, folder: Path, count: int = 8
) -> list[Mistake]:
    """The surest mistakes on labeled images, which are written to `folder`/mistakes/0.png, 1.png, ...

    Earlier images in the folder are removed. Without images (vectors, sound) there are none.
    """
    for stale in (folder / "mistakes").glob("*.png"):
        stale.unlink()
    if predictions.targets is None:
        return []
    rows = surest_mistakes(predictions.logits, predictions.targets, count)
    ids, targets = predictions.ids[rows], predictions.targets[rows].tolist()
    shares, classes, names = predictions.logits[rows].double().softmax(1), source.classes, source.sample_names
    theirs = None
    if teacher is not None and bool(torch.isin(ids, teacher.ids).all()):
        theirs = teacher.select(ids).logits.argmax(1).tolist()
    found: list[Mistake] = []
    for at, image, row in written(source, ids, folder, "mistakes"):
        confidence, predicted = shares[at].max(0)
        found.append(
            Mistake(
                image=image,
                sample=names[row] if names else "",
                label=classes[targets[at]],
                predicted=classes[int(predicted)],
                confidence=float(confidence),
                of_label=float(shares[at, targets[at]]),
                teacher=None if theirs is None else classes[theirs[at]],
            )
        )
    return found
