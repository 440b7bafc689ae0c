"""`predict`: the classes of images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from understudy.data import Unreadable
from understudy.data.crop import center_crop
from understudy.data.decoding import Decoding
from understudy.data.formats.listing import list_images
from understudy.data.formats.records import FileRecord
from understudy.data.source import Record
from understudy.errors import UnderstudyError, UnderstudyWarning
from understudy.files import path_of
from understudy.models import Network, fold, to_channels_last
from understudy.pipeline.device import usable_cores
from understudy.pipeline.weights import networks_of
from understudy.verbs.arguments import check_whole

_TOGETHER = 250  # images of up to 100 x 100 pixels; fewer larger ones


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
    if not network.classes:
        raise UnderstudyError(
            f"{target} has no classifier; list the nearest images with understudy neighbors, or train one with "
            "understudy transfer"
        )
    shape = network.contract.source_shape
    channels, height, _ = shape if len(shape) == 3 else (0, 0, 0)
    if not channels:
        raise UnderstudyError(f"{target} was trained on vectors; predict takes images")
    to_channels_last(network, "cpu")
    paths, records = zip(*image_records(images), strict=True)
    resize = height if network.contract.crop_mode == "squash" else 0
    decode = partial(decoded_image, Decoding(records, channels, height), resize=resize)
    together = max(1, min(_TOGETHER, _TOGETHER * 100**2 // height**2))
    predictions: list[Prediction] = []
    with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow decodes and resizes without holding the GIL
        for start in range(0, len(records), together):
            part = slice(start, start + together)
            pixels = list(pool.map(decode, range(len(records))[part]))
            found = _classify(network, [one for one in pixels if isinstance(one, Tensor)], top)
            for path, one in zip(paths[part], pixels, strict=True):
                if isinstance(one, str):
                    predictions.append(Prediction(str(path), (), (), one))
                elif (answer := next(found)) is None:
                    raise UnderstudyError(f"the outputs of {target} for {path} are not finite; train the network again")
                else:
                    predictions.append(Prediction(str(path), *answer))
    return predictions


def decoded_image(images: Decoding, row: int, resize: int) -> Tensor | str:
    """The image as uint8 (size, size) or (size, size, 3), or the reason why it cannot be read."""
    try:
        return torch.from_numpy(np.array(center_crop(images.image(row), images.size, resize)))
    except Unreadable as error:
        return str(error)


def _classify(
    network: Network, images: Sequence[Tensor], top: int
) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]] | None]:
    """The `top` most probable classes of each image with their probabilities; None if they are not finite."""
    if not images:
        return
    stack = torch.stack(list(images))
    pixels = stack[:, None] if stack.dim() == 3 else stack.permute(0, 3, 1, 2)
    with torch.inference_mode():
        probabilities = network(pixels.float().div(255)).logits.float().softmax(1)
    kept = probabilities.topk(min(top, probabilities.shape[1]), dim=1)  # sorted
    finite = probabilities.isfinite().all(1).tolist()
    for ok, values, index in zip(finite, kept.values.tolist(), kept.indices.tolist(), strict=True):
        yield (tuple(network.classes[i] for i in index), tuple(values)) if ok else None


def image_records(images: Sequence[str | Path]) -> list[tuple[Path, Record]]:
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
