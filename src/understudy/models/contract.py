"""The input that a network expects (modality, shape, normalization), and the conversion of batches to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.signals import ASPECTS

# Rec. 601 luma, as in PIL's convert("L").
_LUMA = (0.299, 0.587, 0.114)
# Linear sRGB to CIE XYZ (IEC 61966-2-1); dividing each row by its sum normalizes to the white point, D65.
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


@dataclass(frozen=True)
class InputContract:
    """The input that a network expects, and the classes that it predicts.

    >>> InputContract((1, 32, 32), (0.5,), (0.25,), ("cat", "dog"), modality="luminance").source_shape
    (3, 32, 32)

    Images of another aspect ratio are cropped or squashed to (H, W) by `crop_mode`. They are resized with antialiasing;
    bicubic interpolation matches how images are decoded here, and a mismatch matters: a small network at 63.0% accuracy
    was at 54.5% with the other one.
    """

    shape: tuple[int, ...]  # (C, H, W) of images, or (D,) of vectors
    mean: tuple[float, ...]  # of each channel, for images in [0, 1]
    std: tuple[float, ...]
    classes: tuple[str, ...]  # names in the order of the logits
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    modality: str = ""  # one of `ASPECTS` of the image, or a modality of the data; "" takes the only or the first one
    crop_mode: Literal["center", "squash"] = "center"

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)  # for reading it from a file

    def check(self) -> None:
        """Raise a ValueError if the fields contradict one another, as those of a damaged file may."""
        if len(self.shape) not in (1, 3) or min(self.shape) < 1:
            raise ValueError(f"shape {self.shape} is neither (C, H, W) nor (D,)")
        if not len(self.mean) == len(self.std) or len(self.mean) not in (1, self.shape[0]):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations for {self.shape[0]} channels")
        if not all(map(isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} are no normalization")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape of a sample in the data, before an aspect is extracted from it."""
        return (3, *self.shape[1:]) if self.modality in ASPECTS else self.shape

    @property
    def is_image(self) -> bool:
        """Whether the network takes images as they are, for which pre-trained networks come with a normalization."""
        return self.modality in ("", "rgb", "image")


def select_modality(inputs: Tensor | Mapping[str, Tensor], modality: str) -> Tensor:
    """A modality of a batch's inputs: the tensor of that name, or an aspect of the image.

    A bare tensor has no name: it is the image if an aspect is requested, and otherwise whatever is requested.
    """
    if isinstance(inputs, Tensor):
        return to_aspect(inputs, modality) if modality in ASPECTS else inputs
    if not modality:
        return next(iter(inputs.values()))
    if modality in inputs:
        return inputs[modality]
    if modality in ASPECTS and "image" in inputs:
        return to_aspect(inputs["image"], modality)
    raise UnderstudyError(f"the network expects {modality}, but the samples have only {', '.join(inputs)}")


def to_aspect(images: Tensor, aspect: str) -> Tensor:
    """Convert (B, 3 or 1, H, W) images in [0, 1] to one of `ASPECTS`, (B, C, H, W) in [0, 1].

    Luminance is L / 100 of CIE Lab, chrominance (a + 128) / 256 and (b + 128) / 256, where 0.5 is neutral.
    """
    if aspect in ("rgb", "gray"):
        return convert_channels(images, ASPECTS[aspect])
    if aspect == "chrominance" and images.shape[1] == 1:
        raise UnderstudyError("gray images have no chrominance; use color images")
    lab = to_lab(convert_channels(images, 3))
    return lab[:, :1] / 100 if aspect == "luminance" else (lab[:, 1:] + 128) / 256


def to_lab(images: Tensor) -> Tensor:
    """Convert (B, 3, H, W) sRGB images in [0, 1] to CIE Lab under D65: L in [0, 100], a and b in about [-108, 98].

    >>> to_lab(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten().round().tolist()
    [53.0, 80.0, 67.0]
    """
    images = _upcast(images)
    linear = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    # sums instead of a matrix product, which autocast would run in half precision
    x, y, z = (sum(w / sum(row) * linear[:, i] for i, w in enumerate(row)) for row in _XYZ)
    ratio = torch.stack([torch.as_tensor(x), torch.as_tensor(y), torch.as_tensor(z)], 1)
    edge = 6 / 29
    f = torch.where(ratio > edge**3, ratio.clamp_min(edge**3) ** (1 / 3), ratio / (3 * edge**2) + 4 / 29)
    return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def _upcast(images: Tensor) -> Tensor:
    """Half precision, as in mixed-precision training, to float32, which color conversion and resizing need."""
    return images.float() if images.dtype in (torch.bfloat16, torch.float16) else images


def convert_channels(images: Tensor, channels: int) -> Tensor:
    """(B, C, H, W) images with 1 channel from 3 (Rec. 601 luma) or 3 from 1 (repeated)."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    if images.shape[1] == 3 and channels == 1:
        weights = torch.cat([images.new_full((1, 1, 1), weight) for weight in _LUMA])  # made on the device
        return (images * weights).sum(1, keepdim=True)
    raise UnderstudyError(f"images of {images.shape[1]} channels cannot be converted to the network's {channels}")


def prepare_inputs(inputs: Tensor | Mapping[str, Tensor], contract: InputContract, name: str) -> Tensor:
    """A batch's inputs, (B, C, H, W), (B, D) or a dict of these by modality, as (B, *contract.shape)."""
    x, shape = select_modality(inputs, contract.modality), contract.shape
    if len(shape) != 3:
        if x.shape[1:] != shape:
            raise UnderstudyError(f"{name} expects vectors of {shape[0]}, but got {tuple(x.shape[1:])}")
        return x
    if x.dim() != 4:
        raise UnderstudyError(f"{name} expects images {shape}, but got {tuple(x.shape[1:])}")
    x = convert_channels(x, shape[0])
    if x.shape[2:] != shape[1:]:
        x = F.interpolate(_upcast(x), shape[1:], mode=contract.interpolation, antialias=True, align_corners=False)
    return x
