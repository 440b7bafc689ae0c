"""Test images with the soft targets of the teacher and the predictions of the students."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count as counter
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from understudy.data.loader import in_order
from understudy.data.source import Source
from understudy.evaluation.facts import Picture, Role
from understudy.evaluation.logits import Predictions
from understudy.files import write_whole

_ROLES: tuple[Role, ...] = ("teacher", "alone", "distilled")


def gallery(
    source: Source, predictions: Mapping[str, Predictions], temperature: float, folder: Path, count: int = 12
) -> list[Picture]:
    """Choose the images that show best what a teacher passes on, and write them to `folder`/gallery/0.png, 1.png, ...

    Half of them are those that the teacher classifies correctly with the least certainty (the highest entropy at
    temperature 1), half those that the student classifies wrongly when trained alone and correctly when distilled. If
    one kind runs short, the other fills in. The choice is deterministic. Earlier images in the folder are removed.

    Args:
        predictions: By role: "teacher" and, if there are any, "alone" and "distilled".
        temperature: Of the distributions in the pictures.
    """
    for stale in (folder / "gallery").glob("*.png"):
        stale.unlink()
    if "teacher" not in predictions:
        return []
    ids = predictions["teacher"].ids
    for other in predictions.values():
        ids = ids[torch.isin(ids, other.ids)]
    ids = ids[torch.isin(ids, source.ids)]
    chosen = ids[_choose({role: one.select(ids) for role, one in predictions.items()}, count)]
    shown = {role: (one.select(chosen).logits / temperature).softmax(1) for role, one in predictions.items()}
    pictures = []
    for at, image, row in written(source, chosen, folder, "gallery"):
        target = -1 if source.targets is None else int(source.targets[row])
        pictures.append(
            Picture(
                image=image,
                label="" if target < 0 else source.classes[target],
                temperature=temperature,
                **{role: shown[role][at].tolist() for role in _ROLES if role in shown},
            )
        )
    return pictures


def written(source: Source, ids: Tensor, folder: Path, name: str) -> Iterator[tuple[int, str, int]]:
    """Write some samples to `folder`/`name`/0.png, 1.png, ...; those that cannot be read are left out.

    Args:
        source: of several modalities, the first is written. If it has no images of 1 or 3 channels, there are none.
        ids: (M,) of samples in the source.

    Yields:
        Position in `ids`, path in the folder, and row in the source.
    """
    if len(ids) == 0 or len(source.shape) != 3 or source.shape[0] not in (1, 3):
        return
    rows = torch.cat([(source.ids == i).nonzero().flatten() for i in ids])
    images, number = replace(source.subset(rows), pairs={}), counter()
    for batch in in_order(images, len(rows), torch.device("cpu")):
        assert isinstance(batch.inputs, Tensor)
        for i, image in zip(batch.ids, batch.inputs, strict=True):
            path = f"{name}/{next(number)}.png"
            write_whole(folder / path, _png(image))
            at = int((ids == i).nonzero())
            yield at, path, int(rows[at])


def _choose(predictions: Mapping[str, Predictions], count: int) -> Tensor:
    """At most `count` row numbers: uncertain ones, then rescued ones, each by decreasing entropy of the teacher."""
    teacher = predictions["teacher"]
    entropy = torch.special.entr(teacher.logits.softmax(1)).sum(1)
    order = entropy.argsort(descending=True, stable=True)
    right = {
        role: one.logits.argmax(1) == (one.logits.argmax(1) if one.targets is None else one.targets)
        for role, one in predictions.items()
    }
    rescued = order[:0]
    if "alone" in right and "distilled" in right and teacher.targets is not None:
        rescued = order[(~right["alone"] & right["distilled"])[order]]
    uncertain = order[right["teacher"][order]]
    uncertain = uncertain[~torch.isin(uncertain, rescued[: count // 2])]
    rescued = rescued[: max(count // 2, count - len(uncertain))]
    uncertain = uncertain[~torch.isin(uncertain, rescued)][: count - len(rescued)]
    return torch.cat([uncertain, rescued])


def _png(image: Tensor) -> bytes:
    """A (C, H, W) image in [0, 1] with 1 or 3 channels as a PNG file of the same size."""
    pixels = image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
