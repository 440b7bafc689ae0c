"""`predict`: the classes of images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from understudy.data import Unreadable
from understudy.data.crop import center_crop
from understudy.data.formats.listing import list_images
from understudy.data.formats.records import FileRecord
from understudy.data.source import Record
from understudy.errors import UnderstudyError, UnderstudyWarning
from understudy.files import path_of
from understudy.models import fold
from understudy.pipeline.weights import networks_of
from understudy.verbs.arguments import check_whole


@dataclass(frozen=True)
class Prediction:
    """The predicted classes of one image with their probabilities, the most probable first.

    Attributes:
        error: why the image could not be read, or None.
    """

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None


def predict(
    target: str | Path, images: Sequence[str | Path], *, top: int = 5, trust_code: bool = False
) -> list[Prediction]:
    """Classify image files, or the images of folders, with a run's first network or a weights file.

    Args:
        target: a run folder or a weights file.
        images: files, or folders of them.
        top: number of classes for each image.
        trust_code: whether the function that made the network (pkg.mod:fn) may be imported.

    Returns:
        One for each image; one that cannot be read has no classes, and an `error`.

    Raises:
        UnderstudyError: no network or no images at these paths, or outputs that are not finite.
    """
    check_whole("top", top)
    network = fold(next(iter(networks_of(target, trust_code=trust_code).values())))
    shape = network.contract.source_shape
    channels, height, _ = shape if len(shape) == 3 else (0, 0, 0)
    if not channels:
        raise UnderstudyError(f"{target} was trained on vectors; predict takes images")
    predictions = []
    for path, record in _records(images):
        try:
            image = record.read()
        except Unreadable as error:
            predictions.append(Prediction(str(path), (), (), str(error)))
            continue
        resize = height if network.contract.crop_mode == "squash" else 0
        square = center_crop(image.convert("L" if channels == 1 else "RGB"), height, resize)
        pixels = torch.from_numpy(np.array(square)).float().div(255)
        pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
        with torch.inference_mode():
            logits = network(pixels[None]).logits[0]
        if not bool(logits.isfinite().all()):
            raise UnderstudyError(f"the outputs of {target} for {path} are not finite; train the network again")
        probabilities, index = logits.softmax(0).sort(descending=True)
        kept = slice(0, min(top, len(index)))
        names = tuple(network.classes[i] for i in index[kept].tolist())
        predictions.append(Prediction(str(path), names, tuple(probabilities[kept].tolist())))
    return predictions


def _records(images: Sequence[str | Path]) -> list[tuple[Path, Record]]:
    """Each image with its path: the named files, and the images in the named folders."""
    records: list[tuple[Path, Record]] = []
    for image in images:
        path = path_of(image, "an image")
        if path.is_dir():
            listing = list_images(path, advice="name image files, or folders that hold some")
            found = map(listing.open, listing.tree.images)
            records += [(path / record.name, record) for record in found]
            for note in listing.notes:
                warnings.warn(note, UnderstudyWarning, stacklevel=3)
        elif path.exists():
            records.append((path, FileRecord("", str(path))))
        else:
            raise UnderstudyError(f"there is no image or folder {image}")
    if not records:
        raise UnderstudyError("no images; name image files, or folders that hold some")
    return records
