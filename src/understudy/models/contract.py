"""What a network must be fed: a modality, a size and a scale, and how these come from what a batch holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.signals import ASPECTS

# Rec. 601 luma: what PIL's convert("L") uses.
_LUMA = (0.299, 0.587, 0.114)
# Linear sRGB to CIE XYZ (IEC 61966-2-1); each row divided by its sum is in units of the white, D65.
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


@dataclass(frozen=True)
class InputContract:
    """What a network wants to be fed, and the names of what it answers.

    Attributes:
        shape: (C, H, W) of the images the module reads, or (D,) for vectors.
        mean, std: one value a channel, of inputs in the modality's scale, for images [0, 1].
        classes: the class names in the order of the logits.
        interpolation: how images of another size are brought to (H, W), with antialiasing; bicubic as whatever is
            decoded here, unless a net was trained otherwise. The other one costs a small net 9 points of 63.
        modality: what the network sees: one of `ASPECTS` of the image, or the name of a set's modality, as "depth";
            "" for whatever a set holds, or holds first.
        fit: what of an image of another form is brought to (H, W): its central square, or the whole of it.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    modality: str = ""
    fit: Literal["centre", "whole"] = "centre"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> InputContract:
        return cls(
            tuple(value["shape"]),
            tuple(value["mean"]),
            tuple(value["std"]),
            tuple(value["classes"]),
            value["interpolation"],
            value.get("modality", ""),  # files of earlier versions have none
            value.get("fit", "centre"),
        )

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape of a sample as a set holds it, before anything is seen in it."""
        return (3, *self.shape[1:]) if self.modality in ASPECTS else self.shape

    @property
    def sees_images(self) -> bool:
        """Whether what is seen are images as they are, which nets pre-trained on images have a scale for."""
        return self.modality in ("", "rgb", "image")


def seen(inputs: Tensor | Mapping[str, Tensor], modality: str) -> Tensor:
    """A modality of a batch's inputs: a tensor of that name, or an aspect of the image.

    Inputs that are one tensor have no name: they are taken for the image where an aspect is asked for, and for
    whatever else is asked for.

    Raises:
        UnderstudyError: there is no such modality.
    """
    if isinstance(inputs, Tensor):
        return aspect_of(inputs, modality) if modality in ASPECTS else inputs
    if not modality:
        return next(iter(inputs.values()))
    if modality in inputs:
        return inputs[modality]
    if modality in ASPECTS and "image" in inputs:
        return aspect_of(inputs["image"], modality)
    raise UnderstudyError(f"a network sees {modality}, and the samples have only {', '.join(inputs)}")


def aspect_of(images: Tensor, aspect: str) -> Tensor:
    """(B, 3 or 1, H, W) images in [0, 1] as one of `ASPECTS`, (B, C, H, W) in [0, 1].

    Luminance is L / 100 of CIE Lab, chrominance (a + 128) / 256 and (b + 128) / 256: 0.5 is neutral.
    """
    if aspect in ("rgb", "grey"):
        return convert_channels(images, ASPECTS[aspect])
    if aspect == "chrominance" and images.shape[1] == 1:
        raise UnderstudyError("grey images have no chrominance; give colour images")
    lab = to_lab(convert_channels(images, 3))
    return lab[:, :1] / 100 if aspect == "luminance" else (lab[:, 1:] + 128) / 256


def to_lab(images: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in [0, 1] as CIE Lab under D65: L in [0, 100], a and b about -108 to 98."""
    images = _whole(images)
    linear = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    # sums, not a matrix product, which autocast would round
    x, y, z = (sum(w / sum(row) * linear[:, i] for i, w in enumerate(row)) for row in _XYZ)
    ratio = torch.stack([torch.as_tensor(x), torch.as_tensor(y), torch.as_tensor(z)], 1)
    edge = 6 / 29
    f = torch.where(ratio > edge**3, ratio.clamp_min(edge**3) ** (1 / 3), ratio / (3 * edge**2) + 4 / 29)
    return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def _whole(images: Tensor) -> Tensor:
    """Half precision as float32: mixed-precision training hands over such inputs, and these steps need more."""
    return images.float() if images.dtype in (torch.bfloat16, torch.float16) else images


def convert_channels(images: Tensor, channels: int) -> Tensor:
    """(B, C, H, W) images with 1 channel from 3 (Rec. 601 luma) or 3 from 1 (repeated)."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    if images.shape[1] == 3 and channels == 1:
        weights = torch.tensor(_LUMA, device=images.device, dtype=images.dtype).view(3, 1, 1)
        return (images * weights).sum(1, keepdim=True)
    raise UnderstudyError(f"images of {images.shape[1]} channels cannot be given to a network that reads {channels}")


def prepared(inputs: Tensor | Mapping[str, Tensor], contract: InputContract, who: str) -> Tensor:
    """What a batch holds as a module wants it but for the scale: (B, *contract.shape).

    Args:
        inputs: canonical inputs, (B, C, H, W) or (B, D), or a dict of such by modality.
        who: the network's name in complaints.
    """
    x, shape = seen(inputs, contract.modality), contract.shape
    if len(shape) != 3:
        if x.shape[1:] != shape:
            raise UnderstudyError(f"{who} reads vectors of {shape[0]}; it was given {tuple(x.shape[1:])}")
        return x
    if x.dim() != 4:
        raise UnderstudyError(f"{who} reads images {shape}; it was given {tuple(x.shape[1:])}")
    x = convert_channels(x, shape[0])
    if x.shape[2:] != shape[1:]:
        x = F.interpolate(_whole(x), shape[1:], mode=contract.interpolation, antialias=True, align_corners=False)
    return x
