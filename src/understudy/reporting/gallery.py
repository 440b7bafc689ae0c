"""Example images with the most probable classes of each model."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from understudy.errors import UnderstudyError
from understudy.evaluation.facts import Mistake, Picture, Role

_TINY = 64  # pixels per side; smaller images are scaled up without smoothing
_LARGEST = 160  # pixels per side; larger images are shrunk, to keep the page small enough for mail
_TOP_CLASSES = 5


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class, and the probability that each model assigns to it."""

    name: str
    true: bool
    shares: dict[Role, float]


@dataclass(frozen=True, slots=True)
class Tile:
    """One image and its top predictions."""

    source: str  # a data URI
    tiny: bool
    label: str
    temperature: str
    predictions: list[Prediction]


def tile(picture: Picture, classes: Sequence[str], folder: Path) -> Tile:
    """A picture with its file embedded, which must be a PNG file in the folder."""

    def name(index: int) -> str:
        return classes[index] if 0 <= index < len(classes) else f"class {index}"

    label = name(picture.label) if isinstance(picture.label, int) else picture.label
    roles: tuple[Role, ...] = ("teacher", "distilled", "alone")
    models: dict[Role, list[float]] = {role: shares for role in roles if (shares := getattr(picture, role)) is not None}
    top = sorted(range(len(picture.teacher)), key=lambda i: -picture.teacher[i])[:_TOP_CLASSES]
    predictions = [
        Prediction(name(i), name(i) == label, {role: shares[i] for role, shares in models.items()}) for i in top
    ]
    source, tiny = embedded(folder, picture.image)
    return Tile(source, tiny, label, f"{picture.temperature:g}", predictions)


@dataclass(frozen=True, slots=True)
class WrongTile:
    """One misclassified image."""

    source: str  # a data URI
    tiny: bool
    facts: Mistake


def wrong_tile(mistake: Mistake, folder: Path) -> WrongTile:
    """A mistake with its file embedded, which must be a PNG file in the folder."""
    return WrongTile(*embedded(folder, mistake.image), mistake)


def embedded(folder: Path, path: str) -> tuple[str, bool]:
    """The data URI of a PNG file, and whether the image is tiny."""
    root = folder.resolve()
    try:
        file = (root / path).resolve()
        if not file.is_relative_to(root):
            raise ValueError("it is outside of the folder")
        png = file.read_bytes()
        image = Image.open(io.BytesIO(png), formats=["PNG"])
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnderstudyError(
            f"the image {path!r} of the gallery is not a PNG file in {folder}; evaluate the run again"
        ) from error
    kind = "png"
    if max(image.size) > _LARGEST:
        image = image.convert("RGB")
        image.thumbnail((_LARGEST, _LARGEST))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
        png, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(png).decode()}", max(image.size) < _TINY
