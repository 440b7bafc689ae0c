"""`predict`: the classes of images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from understudy.data import Unreadable
from understudy.data.decode import decode
from understudy.data.views import place
from understudy.errors import UnderstudyError
from understudy.models import fold
from understudy.preparing import networks_of


@dataclass(frozen=True)
class Prediction:
    """What a network says about one image: classes with their probabilities, the likeliest first."""

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None


def predict(
    target: str | Path, images: Sequence[str | Path], *, top: int = 5, trust_code: bool = False
) -> list[Prediction]:
    """Classify image files, or the images of folders, with a run's first network or a weights file.

    `trust_code` allows the function that the network was made by (pkg.mod:fn) to be imported. An image that cannot be
    read gives a prediction without classes whose `error` says why.
    """
    network = fold(next(iter(networks_of(target, trust_code=trust_code).values())))
    shape = network.contract.source_shape
    channels, height, _ = shape if len(shape) == 3 else (0, 0, 0)
    if not channels:
        raise UnderstudyError(f"{target} reads vectors; predict takes images")
    said = []
    for path in _image_files(images):
        try:
            image = decode(io.BytesIO(path.read_bytes()))
        except (Unreadable, OSError) as error:
            said.append(Prediction(str(path), (), (), str(error)))
            continue
        whole = height if network.contract.fit == "whole" else 0
        square = place(image.convert("L" if channels == 1 else "RGB"), height, None, 1.0, whole)
        pixels = torch.from_numpy(np.array(square)).float().div(255)
        pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
        with torch.inference_mode():
            share, index = network(pixels[None]).logits[0].softmax(0).sort(descending=True)
        kept = slice(0, min(top, len(index)))
        names = tuple(network.classes[i] for i in index[kept].tolist())
        said.append(Prediction(str(path), names, tuple(share[kept].tolist())))
    return said


def _image_files(images: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for image in images:
        path = Path(image)
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.exists():
            files.append(path)
        else:
            raise UnderstudyError(f"there is no image or folder {image}")
    if not files:
        raise UnderstudyError("there is no image to look at; name image files or folders that hold some")
    return files
