"""Augmentation as a pure function of seeds: the same sample and seed always give the same view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.data.crop import random_box, random_offsets
from understudy.randomness import integers, mix, normal, uniform

# Random streams, one per drawn parameter; 6 to 9 are those of crops.
_SHIFT_Y, _SHIFT_X, _FLIP, _ANGLE, _ZOOM_Y, _ZOOM_X, _ELASTIC, _NOISE = 0, 1, 2, 3, 4, 5, 10, 11


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


def augment(pool: Tensor, rows: Tensor | None, seeds: Tensor, augmentation: Augmentation) -> Tensor:
    """The rows (B,) int64 of a pool of images (N, C, H, W) or vectors (N, D), augmented by their view seeds (B,) int64.

    None takes all rows, without a copy where nothing is to be done.

    uint8 images stay uint8 unless they are interpolated or noisy, which gives floats in [0, 255]. H and W are those of
    the pool, or `crop_size`. Vectors only get noise.

    >>> image = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    >>> augment(image, torch.tensor([0, 0]), torch.tensor([3, 0]), Augmentation(flip=True))[:, 0, 0]
    tensor([[2, 1, 0],
            [0, 1, 2]], dtype=torch.uint8)
    """
    inputs = _geometric(pool, rows, seeds, augmentation) if pool.dim() == 4 else _rows(pool, rows)
    return _add_noise(inputs, seeds, augmentation.noise, pool.dtype) if augmentation.noise else inputs


def _rows(pool: Tensor, rows: Tensor | None) -> Tensor:
    return pool if rows is None else pool[rows]


def flips_crops(augmentation: Augmentation) -> bool:
    """Whether crops are flipped where they are cut: if nothing comes between."""
    moved = augmentation.translate or augmentation.rotate or augmentation.zoom or augmentation.elastic
    return augmentation.flip and not moved


def flipped(seeds: Tensor) -> Tensor:
    """Which views (B,) are flipped."""
    return uniform(seeds, _FLIP) < 0.5


def _geometric(pool: Tensor, rows: Tensor | None, seeds: Tensor, augmentation: Augmentation) -> Tensor:
    flip = augmentation.flip
    if augmentation.crop_size:
        rows = torch.arange(len(pool), device=pool.device) if rows is None else rows
        chunks = zip(rows.split(_CHUNK), seeds.split(_CHUNK), strict=True)
        sizes = augmentation.resize, augmentation.crop_size
        images = torch.cat([_resize_and_crop(pool[r], s, *sizes) for r, s in chunks])
    elif augmentation.crop_scale < 1:
        mirrored = flipped(seeds) if flips_crops(augmentation) else None
        images = _resized_crop(_rows(pool, rows), seeds, augmentation.crop_scale, mirrored)
        flip = flip and mirrored is None
    else:
        images = _rows(pool, rows)
    if augmentation.rotate or augmentation.zoom or augmentation.elastic:
        return _warp(images, seeds, augmentation)
    if augmentation.translate:
        images = _translate(images, seeds, augmentation.translate)
    if flip:
        images = torch.where(flipped(seeds)[:, None, None, None], images.flip(3), images)
    return images


def _resize_and_crop(images: Tensor, seeds: Tensor, resize: int, size: int) -> Tensor:
    """Random crops of `size` x `size` pixels from images resized to `resize` x `resize`, as floats."""
    resized = F.interpolate(images.float(), (resize, resize), mode="bicubic", antialias=True, align_corners=False)
    if images.dtype == torch.uint8:
        resized.clamp_(0, 255)
    crops = resized.unfold(2, size, 1).unfold(3, size, 1)  # (B, C, offsets, offsets, size, size), a view
    top, left = random_offsets(seeds, resize, size)
    return crops[torch.arange(len(images), device=images.device), :, top, left]


def _resized_crop(images: Tensor, seeds: Tensor, min_scale: float, mirrored: Tensor | None) -> Tensor:
    """Random crops resized back to the size of the images, as floats; `mirrored` (B,) bool tells which are flipped."""
    height, width = images.shape[2:]
    left, top, w, h = random_box(seeds, width, height, min_scale)
    x, y = _centers(left, w, width), _centers(top, h, height)
    if mirrored is not None:
        x = torch.where(mirrored[:, None], x.flip(1), x)
    shape = len(images), height, width
    grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], 3)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _centers(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(B, size): centers of the pixels that these parts of an axis (B,) are resized to; it runs from -1 to 1."""
    steps = (torch.arange(size, device=start.device) + 0.5) / size
    return ((start[:, None] + length[:, None] * steps) * (2 / size) - 1).float()


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
        zoom_x = torch.where(flipped(seeds), -zoom_x, zoom_x)
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


def to_unit_range(images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Scale images from a uint8 array, or floats in [0, 255] interpolated from one (`dtype`), to float32 in [0, 1].

    Other floats are returned as they are.
    """
    return images.float().div_(255) if (dtype or images.dtype) == torch.uint8 else images
