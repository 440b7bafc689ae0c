"""Augmentation as a pure function of seeds: the same sample and seed always give the same view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from understudy.randomness import integers, mix, normal, uniform

# Random streams, one per drawn parameter.
_SHIFT_Y, _SHIFT_X, _FLIP, _ANGLE, _ZOOM_Y, _ZOOM_X, _AREA, _ASPECT, _CROP_Y, _CROP_X, _ELASTIC, _NOISE = range(12)


@dataclass(frozen=True)
class Augmentation:
    """Augmentation parameters; the defaults leave samples unchanged."""

    translate: int = 0  # maximum shift along each axis in pixels, with zero padding
    flip: bool = False  # horizontally, with probability 0.5
    rotate: float = 0.0  # maximum rotation in degrees
    zoom: float = 0.0  # scale each axis by a factor in [1 - zoom, 1 + zoom]
    elastic: float = 0.0  # root mean square displacement of a smooth random deformation, in pixels
    crop_scale: float = 1.0  # minimum area fraction of a random resized crop; 1 disables it
    crop_size: int = 0  # side in pixels of a random square crop from the image resized to `resize`; 0 disables it
    resize: int = 0  # side in pixels of the square the whole image is resized to before that crop
    noise: float = 0.0  # standard deviation, relative to the pixel range for images, absolute for vectors


NO_AUGMENTATION = Augmentation()
_CHUNK = 64  # images resized at once before cropping, as they are much larger than the crops


def augment(pool: Tensor, rows: Tensor, seeds: Tensor, augmentation: Augmentation) -> Tensor:
    """The rows (B,) int64 of a pool of images (N, C, H, W) or vectors (N, D), augmented by their view seeds (B,) int64.

    uint8 images stay uint8 unless they are interpolated or noisy, which gives floats in [0, 255]. H and W are those of
    the pool, or `crop_size`. Vectors only get noise.

    >>> image = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    >>> augment(image, torch.tensor([0, 0]), torch.tensor([3, 0]), Augmentation(flip=True))[:, 0, 0]
    tensor([[2, 1, 0],
            [0, 1, 2]], dtype=torch.uint8)
    """
    inputs = _geometric(pool, rows, seeds, augmentation) if pool.dim() == 4 else pool[rows]
    return _add_noise(inputs, seeds, augmentation.noise, pool.dtype) if augmentation.noise else inputs


def _geometric(pool: Tensor, rows: Tensor, seeds: Tensor, augmentation: Augmentation) -> Tensor:
    if augmentation.crop_size:
        chunks = zip(rows.split(_CHUNK), seeds.split(_CHUNK), strict=True)
        sizes = augmentation.resize, augmentation.crop_size
        images = torch.cat([_resize_and_crop(pool[r], s, *sizes) for r, s in chunks])
    else:
        images = pool[rows]
        if augmentation.crop_scale < 1:
            images = _resized_crop(images, seeds, augmentation.crop_scale)
    if augmentation.rotate or augmentation.zoom or augmentation.elastic:
        return _warp(images, seeds, augmentation)
    if augmentation.translate:
        images = _translate(images, seeds, augmentation.translate)
    if augmentation.flip:
        images = torch.where((uniform(seeds, _FLIP) < 0.5)[:, None, None, None], images.flip(3), images)
    return images


def _resize_and_crop(images: Tensor, seeds: Tensor, resize: int, size: int) -> Tensor:
    """Random crops of `size` x `size` pixels from images resized to `resize` x `resize`, as floats."""
    resized = F.interpolate(images.float(), (resize, resize), mode="bicubic", antialias=True, align_corners=False)
    if images.dtype == torch.uint8:
        resized.clamp_(0, 255)
    crops = resized.unfold(2, size, 1).unfold(3, size, 1)  # (B, C, offsets, offsets, size, size), a view
    top, left = _crop_offsets(seeds, resize, size)
    return crops[torch.arange(len(images), device=images.device), :, top, left]


def _crop_offsets(seeds: Tensor, resize: int, size: int) -> tuple[Tensor, Tensor]:
    """Top and left of a random crop, in pixels."""
    return integers(seeds, _CROP_Y, 0, resize - size + 1), integers(seeds, _CROP_X, 0, resize - size + 1)


def _random_box(seeds: Tensor, width: int, height: int, min_scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, top, width and height in pixels of a crop of at least that area fraction and an aspect of 3/4 to 4/3."""
    area = width * height * (min_scale + (1 - min_scale) * uniform(seeds, _AREA))
    aspect = ((2 * uniform(seeds, _ASPECT) - 1) * math.log(4 / 3)).exp()
    w, h = (area * aspect).sqrt().clamp_max(width), (area / aspect).sqrt().clamp_max(height)
    left, top = (width - w) * uniform(seeds, _CROP_X), (height - h) * uniform(seeds, _CROP_Y)
    return left, top, w, h


def _resized_crop(images: Tensor, seeds: Tensor, min_scale: float) -> Tensor:
    """Random crops resized back to the size of the images, as floats."""
    height, width = images.shape[2:]
    left, top, w, h = _random_box(seeds, width, height, min_scale)
    zero = torch.zeros_like(left)
    # grid coordinates run from -1 to 1 across the image
    theta_x = torch.stack([w / width, zero, (2 * left + w) / width - 1], 1)
    theta_y = torch.stack([zero, h / height, (2 * top + h) / height - 1], 1)
    grid = F.affine_grid(torch.stack([theta_x, theta_y], 1).float(), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _translate(images: Tensor, seeds: Tensor, maximum: int) -> Tensor:
    height, width = images.shape[2:]
    padded = F.pad(images, (maximum, maximum, maximum, maximum))
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, offsets, offsets, H, W), a view
    top = integers(seeds, _SHIFT_Y, 0, 2 * maximum + 1)
    left = integers(seeds, _SHIFT_X, 0, 2 * maximum + 1)
    return crops[torch.arange(len(images), device=images.device), :, top, left]


def _warp(images: Tensor, seeds: Tensor, augmentation: Augmentation) -> Tensor:
    """Translation, rotation, zoom, flip and elastic deformation in one bilinear resampling."""
    height, width = images.shape[2:]

    def draw(stream: int) -> Tensor:
        return uniform(seeds, stream) * 2 - 1

    angle = draw(_ANGLE) * math.radians(augmentation.rotate)
    zoom_y, zoom_x = 1 + draw(_ZOOM_Y) * augmentation.zoom, 1 + draw(_ZOOM_X) * augmentation.zoom
    if augmentation.flip:
        zoom_x = torch.where(uniform(seeds, _FLIP) < 0.5, -zoom_x, zoom_x)
    # whole pixels, as in `_translate`; grid coordinates run from -1 to 1 across the image
    shift_x = (integers(seeds, _SHIFT_X, 0, 2 * augmentation.translate + 1) - augmentation.translate) * (2.0 / width)
    shift_y = (integers(seeds, _SHIFT_Y, 0, 2 * augmentation.translate + 1) - augmentation.translate) * (2.0 / height)
    cos, sin = angle.cos(), angle.sin()
    # a grid unit is a different number of pixels on each axis: uncorrected, rotation would shear
    ratio = height / width
    theta_x = torch.stack([cos / zoom_x, -sin / zoom_y * ratio, shift_x], 1)
    theta_y = torch.stack([sin / zoom_x / ratio, cos / zoom_y, shift_y], 1)
    grid = F.affine_grid(torch.stack([theta_x, theta_y], 1), list(images.shape), align_corners=False)
    if augmentation.elastic:
        grid = grid + _displacement(seeds, height, width, augmentation.elastic)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _add_noise(inputs: Tensor, seeds: Tensor, std: float, dtype: torch.dtype) -> Tensor:
    """Add Gaussian noise; inputs from a uint8 pool are clamped to [0, 255]."""
    scale = 255 if dtype == torch.uint8 else 1
    noise = normal(mix(seeds, _NOISE), inputs.flatten(1).shape[1]).reshape(inputs.shape)
    noisy = inputs.float().add(noise, alpha=scale * std)
    return noisy.clamp_(0, 255) if dtype == torch.uint8 else noisy


def _displacement(seeds: Tensor, height: int, width: int, pixels: float) -> Tensor:
    """(B, H, W, 2) smooth random fields in grid units: independent draws on a coarse lattice, bicubic in between."""
    coarse = max(min(height, width) // 6, 2)
    lattice = torch.arange(2 * coarse * coarse, device=seeds.device)
    draws = uniform(seeds[:, None] ^ (lattice * 0x9E3779B1), _ELASTIC) * 2 - 1
    field = draws.view(-1, 2, coarse, coarse) * math.sqrt(3.0) * pixels  # unit variance, scaled to `pixels`
    x, y = F.interpolate(field, (height, width), mode="bicubic", align_corners=True).unbind(1)
    return torch.stack([x * (2.0 / width), y * (2.0 / height)], 3)


def crop_and_resize(image: Image.Image, size: int, seed: int | None, min_scale: float, resize: int = 0) -> Image.Image:
    """Crop a decoded image and resize the crop to (size, size).

    With a view seed the crop is random, with an area fraction of at least `min_scale` (1 takes the whole image) and an
    aspect ratio of 3/4 to 4/3; without, it is the center square. If `resize` is set, the whole image is resized to
    `resize` x `resize` instead, of which a seed takes a random `size` x `size` crop.
    """
    width, height = image.size
    if resize:
        top, left = (0, 0) if seed is None else (int(x) for x in _crop_offsets(torch.tensor(seed), resize, size))
        x, y, side = width / resize, height / resize, resize if seed is None else size
        box = (left * x, top * y, (left + side) * x, (top + side) * y)
    elif seed is None:
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    elif min_scale >= 1:
        box = (0.0, 0.0, float(width), float(height))
    else:
        left, top, w, h = (float(x) for x in _random_box(torch.tensor(seed), width, height, min_scale))
        box = (left, top, min(left + w, width), min(top + h, height))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def to_unit_range(images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Scale images from a uint8 array, or floats in [0, 255] interpolated from one (`dtype`), to float32 in [0, 1].

    Other floats are returned as they are.
    """
    return images.float().div_(255) if (dtype or images.dtype) == torch.uint8 else images
