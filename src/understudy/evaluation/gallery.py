"""A few test images with what each model believes of them: soft targets, seen."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from understudy.data.batches import in_order
from understudy.data.source import Source
from understudy.evaluation.logits import Predictions

_ROLES = ("teacher", "alone", "distilled")


def gallery(
    source: Source,
    predictions: Mapping[str, Predictions],
    classes: Sequence[str],
    temperature: float,
    count: int = 12,
) -> list[dict[str, Any]]:
    """The images that say most about what a teacher passes on; always the same for the same predictions.

    Half are those that the teacher gets right with the least certainty (highest entropy at temperature 1),
    half those that the student gets wrong alone and right distilled; where one kind is short, the other fills
    in.

    Args:
        source: the images the predictions were made for.
        predictions: by role, "teacher" and, where there are such, "alone" and "distilled".
        classes: names in the order of the logits.
        temperature: of the distributions shown.
        count: most images to show.

    Returns:
        For each image `image_png_base64`, `label` (a class's name, None where unlabelled), `temperature`, and
        by role `teacher`, `alone`, `distilled`: C probabilities, or None for a role that is not there. Empty
        for vectors.
    """
    if len(source.shape) != 3 or "teacher" not in predictions:
        return []
    ids = predictions["teacher"].ids
    for other in predictions.values():
        ids = ids[torch.isin(ids, other.ids)]
    ids = ids[torch.isin(ids, source.ids)]
    chosen = ids[_choose({role: one.select(ids) for role, one in predictions.items()}, count)]
    if len(chosen) == 0:
        return []
    shown = {role: (one.select(chosen).logits / temperature).softmax(1) for role, one in predictions.items()}
    rows = torch.cat([(source.ids == i).nonzero().flatten() for i in chosen])
    entries = []
    for batch in in_order(source.subset(rows), len(rows), torch.device("cpu")):
        assert isinstance(batch.inputs, Tensor)
        targets = [None] * len(batch) if batch.targets is None else batch.targets.tolist()
        for i, image, target in zip(batch.ids, batch.inputs, targets, strict=True):
            at = int((chosen == i).nonzero())
            entries.append(
                {
                    "image_png_base64": _png(image),
                    "label": None if target is None else classes[target],
                    "temperature": temperature,
                    **{role: shown[role][at].tolist() if role in shown else None for role in _ROLES},
                }
            )
    return entries


def _choose(predictions: Mapping[str, Predictions], count: int) -> Tensor:
    """Row numbers, at most `count`: telling ones, rescued ones, each by the teacher's falling entropy."""
    teacher = predictions["teacher"]
    entropy = torch.special.entr(teacher.logits.softmax(1)).sum(1)
    order = entropy.argsort(descending=True, stable=True)
    right = {role: _right(one) for role, one in predictions.items()}
    rescued = order[:0]
    if "alone" in right and "distilled" in right and teacher.targets is not None:
        rescued = order[(~right["alone"] & right["distilled"])[order]]
    telling = order[right["teacher"][order]]
    telling = telling[~torch.isin(telling, rescued[: count // 2])]
    rescued = rescued[: max(count // 2, count - len(telling))]
    telling = telling[~torch.isin(telling, rescued)][: count - len(rescued)]
    return torch.cat([telling, rescued])


def _right(predictions: Predictions) -> Tensor:
    """(N,) bool: whether the largest logit is the target's; true of everything where there are no targets."""
    if predictions.targets is None:
        return torch.ones(len(predictions), dtype=torch.bool)
    return predictions.logits.argmax(1) == predictions.targets


def _png(image: Tensor) -> str:
    """A (C, H, W) image in [0, 1], C being 1 or 3, as base64 of a PNG of the same size."""
    pixels = image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
