"""Crops of images: where they are, as a pure function of seeds, and the pixels of decoded images."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from understudy.randomness import integers, uniform

_AREA, _ASPECT, _CROP_Y, _CROP_X = 6, 7, 8, 9  # random streams


class Box(NamedTuple):
    """The edges of a crop, in whole pixels."""

    left: int
    top: int
    right: int
    bottom: int


def random_box(
    seeds: Tensor, width: int | Tensor, height: int | Tensor, min_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, top, width and height in pixels of a crop of at least that area fraction and an aspect of 3/4 to 4/3."""
    # all streams at once, as on a few seeds a draw costs the same as four
    area, aspect, y, x = uniform(seeds[:, None], torch.arange(_AREA, _CROP_X + 1, device=seeds.device)).unbind(1)
    area = width * height * (min_scale + (1 - min_scale) * area)
    aspect = ((2 * aspect - 1) * math.log(4 / 3)).exp()
    w, h = (area * aspect).sqrt().clamp(max=width), (area / aspect).sqrt().clamp(max=height)  # type: ignore[arg-type]
    return (width - w) * x, (height - h) * y, w, h


def random_boxes(seeds: Tensor, sizes: Tensor, min_scale: float) -> list[Box]:
    """The `random_box` of each image, rounded to whole pixels and of at least one.

    Args:
        seeds: (B,) int64 view seeds.
        sizes: (B, 2) int64 heights and widths in pixels.
        min_scale: the smallest area fraction; 1 takes the whole image, whatever its aspect.

    >>> random_boxes(torch.tensor([3, 4]), torch.tensor([[30, 40], [30, 40]]), 0.25)
    [Box(left=1, top=1, right=34, bottom=27), Box(left=10, top=0, right=40, bottom=30)]
    """
    height, width = sizes.unbind(1)
    if min_scale >= 1:
        return [Box(0, 0, w, h) for h, w in sizes.tolist()]
    left, top, w, h = random_box(seeds, width, height, min_scale)
    left, top = left.round().long().minimum(width - 1), top.round().long().minimum(height - 1)
    right = (left + w.round().long().clamp(min=1)).minimum(width)
    bottom = (top + h.round().long().clamp(min=1)).minimum(height)
    return [Box(*edges) for edges in torch.stack([left, top, right, bottom], 1).tolist()]


def random_offsets(seeds: Tensor, resize: int, size: int) -> tuple[Tensor, Tensor]:
    """Top and left, in pixels, of a random crop of `size` x `size` from a square of `resize` x `resize`."""
    return integers(seeds, _CROP_Y, 0, resize - size + 1), integers(seeds, _CROP_X, 0, resize - size + 1)


def resized(pixels: Tensor, side: int) -> Tensor:
    """A decoded image (H, W, C) uint8 as (C, side, side), resized bicubically with antialiasing.

    >>> resized(torch.full((2, 4, 3), 7, dtype=torch.uint8), 3).unique()
    tensor([7], dtype=torch.uint8)
    """
    image = pixels.permute(2, 0, 1)[None]  # channels last: torch has a vectorized kernel for that
    return F.interpolate(image, (side, side), mode="bicubic", antialias=True)[0]


def random_crops(
    images: list[Tensor], seeds: Tensor, size: int, min_scale: float, resize: int, flips: list[bool]
) -> Tensor:
    """Random crops of decoded images (H, W, C) uint8, (B, C, size, size) uint8.

    Args:
        images: of any sizes, with the same channels.
        seeds: (B,) int64 view seeds.
        size: pixels of the crops after resizing.
        min_scale: see `random_boxes`.
        resize: if set, the whole image is resized to a square of so many pixels, of which a random `size` x `size` is
            taken.
        flips: whether each crop is flipped horizontally.
    """
    crops = torch.empty(len(images), images[0].shape[2], size, size, dtype=torch.uint8)
    if resize:
        tops, lefts = (offsets.tolist() for offsets in random_offsets(seeds, resize, size))
        views = (
            resized(image, resize)[:, top : top + size, left : left + size]
            for image, top, left in zip(images, tops, lefts, strict=True)
        )
    else:
        boxes = random_boxes(seeds, torch.tensor([image.shape[:2] for image in images]), min_scale)
        views = (
            resized(image[box.top : box.bottom, box.left : box.right], size)
            for image, box in zip(images, boxes, strict=True)
        )
    for crop, view, flip in zip(crops, views, flips, strict=True):
        crop.copy_(view.flip(2) if flip else view)
    return crops


def center_crop(image: Image.Image, size: int, resize: int = 0, part: float = 1.0) -> Image.Image:
    """The center square of a decoded image at `size` x `size` pixels, as for evaluation.

    Args:
        resize: if set, it is the whole image, whatever its aspect, as networks with `crop_mode="squash"` see it.
        part: its side as a part of the image's shorter one.
    """
    width, height = image.size
    if resize:
        box = (0.0, 0.0, float(width), float(height))
    else:
        side = part * min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
