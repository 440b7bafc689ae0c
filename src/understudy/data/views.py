"""Views: how a sample is varied each time it is shown, as a pure function of the view's seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from understudy.randomness import integers, mix, normal, uniform

# One stream of draws for each thing that is drawn.
_SHIFT_Y, _SHIFT_X, _FLIP, _ANGLE, _ZOOM_Y, _ZOOM_X, _AREA, _ASPECT, _CROP_Y, _CROP_X, _ELASTIC, _NOISE = range(12)


@dataclass(frozen=True)
class ViewPlan:
    """What is drawn for each view.

    Attributes:
        jitter: shift by up to this many pixels on each axis, zeros beyond the edge.
        flip: mirror left to right with probability 1/2.
        rotate: turn by up to this many degrees.
        zoom: stretch each axis by a factor in [1 - zoom, 1 + zoom].
        elastic: root mean square, in pixels, of a smooth random displacement field.
        crop: smallest share of the area that a random resized crop keeps; 1 is the whole image.
        window: pixels a side of what is cut, at random, from the whole image brought to a square; 0 cuts nothing.
        resize: pixels a side of that square, at least `window`.
        noise: deviation of what is added to each value: in units of a vector's, as a share of the range of pixels.
    """

    jitter: int = 0
    flip: bool = False
    rotate: float = 0.0
    zoom: float = 0.0
    elastic: float = 0.0
    crop: float = 1.0
    window: int = 0
    resize: int = 0
    noise: float = 0.0

    @property
    def still(self) -> bool:
        """Whether every view of a sample is the sample itself."""
        return self == ViewPlan()


PLAIN = ViewPlan()
_AT_ONCE = 64  # images that are brought to squares together, as those are much larger than what is cut from them


def vary(pool: Tensor, rows: Tensor, seeds: Tensor, plan: ViewPlan) -> Tensor:
    """Views of some rows of an array, in its own type.

    Args:
        pool: (N, C, H, W), or (N, D), to which nothing is done but noise.
        rows: (B,) int64 indices into the pool.
        seeds: (B,) int64 view seeds.

    Returns:
        (B, D), or (B, C, H, W): uint8 as in the pool, or float in the pool's scale where pixels were interpolated or
        are noisy; H and W are the pool's, or the plan's window.
    """
    inputs = _moved(pool, rows, seeds, plan) if pool.dim() == 4 else pool[rows]
    return _noisy(inputs, seeds, plan.noise, pool.dtype) if plan.noise else inputs


def _moved(pool: Tensor, rows: Tensor, seeds: Tensor, plan: ViewPlan) -> Tensor:
    """Images whose pixels are where the plan brings them."""
    if plan.window:
        parts = zip(rows.split(_AT_ONCE), seeds.split(_AT_ONCE), strict=True)
        pool = torch.cat([_window(pool[some], own, plan.resize, plan.window) for some, own in parts])
        rows = torch.arange(len(rows), device=rows.device)
    elif plan.crop < 1:
        pool, rows = _cropped(pool[rows], seeds, plan.crop), torch.arange(len(rows), device=rows.device)
    if plan.rotate or plan.zoom or plan.elastic:
        return _warp(pool[rows], seeds, plan)
    images = _shift(pool, rows, seeds, plan.jitter) if plan.jitter else pool[rows]
    return _flip(images, seeds) if plan.flip else images


def _window(images: Tensor, seeds: Tensor, resize: int, side: int) -> Tensor:
    """Squares of `side` pixels at random places in the images brought to squares of `resize`, as floats."""
    squares = F.interpolate(images.float(), (resize, resize), mode="bicubic", antialias=True, align_corners=False)
    if images.dtype == torch.uint8:
        squares.clamp_(0, 255)
    windows = squares.unfold(2, side, 1).unfold(3, side, 1)  # (B, C, places, places, side, side), a view
    down, across = _offsets(seeds, resize, side)
    return windows[torch.arange(len(images), device=images.device), :, down, across]


def _offsets(seeds: Tensor, resize: int, side: int) -> tuple[Tensor, Tensor]:
    """Where a window lies: pixels from the square's top and from its left."""
    return integers(seeds, _CROP_Y, 0, resize - side + 1), integers(seeds, _CROP_X, 0, resize - side + 1)


def _box(seeds: Tensor, width: int, height: int, smallest: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, top, width and height in pixels of a random crop of at least that share of the area, 3/4 to 4/3 in form."""
    area = width * height * (smallest + (1 - smallest) * uniform(seeds, _AREA))
    aspect = ((2 * uniform(seeds, _ASPECT) - 1) * math.log(4 / 3)).exp()
    across, down = (area * aspect).sqrt().clamp_max(width), (area / aspect).sqrt().clamp_max(height)
    left, top = (width - across) * uniform(seeds, _CROP_X), (height - down) * uniform(seeds, _CROP_Y)
    return left, top, across, down


def _cropped(images: Tensor, seeds: Tensor, smallest: float) -> Tensor:
    """Random crops brought back to the images' own size, as floats."""
    height, width = images.shape[2:]
    left, top, across, down = _box(seeds, width, height, smallest)
    nil = torch.zeros_like(left)
    # grid units run from -1 to 1 over the image
    to_right = torch.stack([across / width, nil, (2 * left + across) / width - 1], 1)
    to_bottom = torch.stack([nil, down / height, (2 * top + down) / height - 1], 1)
    grid = F.affine_grid(torch.stack([to_right, to_bottom], 1).float(), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _shift(pool: Tensor, rows: Tensor, seeds: Tensor, by: int) -> Tensor:
    height, width = pool.shape[2:]
    padded = F.pad(pool[rows], (by, by, by, by))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2 by + 1, 2 by + 1, H, W), a view
    down = integers(seeds, _SHIFT_Y, 0, 2 * by + 1)
    across = integers(seeds, _SHIFT_X, 0, 2 * by + 1)
    return windows[torch.arange(len(rows), device=rows.device), :, down, across]


def _flip(images: Tensor, seeds: Tensor) -> Tensor:
    mirrored = uniform(seeds, _FLIP) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _warp(images: Tensor, seeds: Tensor, plan: ViewPlan) -> Tensor:
    """One bilinear sampling for shift, turn, stretch, mirror and displacement together."""
    height, width = images.shape[2:]
    floats = images.float()

    def draw(stream: int) -> Tensor:
        return uniform(seeds, stream) * 2 - 1

    angle = draw(_ANGLE) * math.radians(plan.rotate)
    zoom_y, zoom_x = 1 + draw(_ZOOM_Y) * plan.zoom, 1 + draw(_ZOOM_X) * plan.zoom
    if plan.flip:
        zoom_x = torch.where(uniform(seeds, _FLIP) < 0.5, -zoom_x, zoom_x)
    # whole pixels, as in the plain shift; grid units run from -1 to 1 over the image
    across = (integers(seeds, _SHIFT_X, 0, 2 * plan.jitter + 1) - plan.jitter) * (2.0 / width)
    down = (integers(seeds, _SHIFT_Y, 0, 2 * plan.jitter + 1) - plan.jitter) * (2.0 / height)
    cos, sin = angle.cos(), angle.sin()
    tall = height / width  # a grid unit is another number of pixels on each axis: without it a turn would shear
    theta = torch.stack(
        [
            torch.stack([cos / zoom_x, -sin / zoom_y * tall, across], 1),
            torch.stack([sin / zoom_x / tall, cos / zoom_y, down], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    if plan.elastic:
        grid = grid + _displacement(seeds, height, width, plan.elastic)
    return F.grid_sample(floats, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _noisy(inputs: Tensor, seeds: Tensor, deviation: float, stored: torch.dtype) -> Tensor:
    """Gaussian noise on each value; what was stored as bytes stays within their range."""
    scale = 255 if stored == torch.uint8 else 1
    noise = normal(mix(seeds, _NOISE), inputs.flatten(1).shape[1]).reshape(inputs.shape)
    noisy = inputs.float().add(noise, alpha=scale * deviation)
    return noisy.clamp_(0, 255) if stored == torch.uint8 else noisy


def _displacement(seeds: Tensor, height: int, width: int, pixels: float) -> Tensor:
    """(B, H, W, 2) smooth random fields in grid units: bicubic through a coarse lattice of independent draws."""
    coarse = max(min(height, width) // 6, 2)
    lattice = torch.arange(2 * coarse * coarse, device=seeds.device)
    draws = uniform(seeds[:, None] ^ (lattice * 0x9E3779B1), _ELASTIC) * 2 - 1
    field = draws.view(-1, 2, coarse, coarse) * math.sqrt(3.0) * pixels  # unit variance, then the wanted size
    field = F.interpolate(field, (height, width), mode="bicubic", align_corners=True)
    return field.permute(0, 2, 3, 1) * torch.tensor([2.0 / width, 2.0 / height], device=seeds.device)


def place(image: Image.Image, size: int, seed: int | None, smallest: float, resize: int = 0) -> Image.Image:
    """Cut a decoded image to (size, size): a random resized crop, or the centre where `seed` is None.

    Args:
        smallest: least share of the area the crop keeps, its aspect between 3/4 and 4/3; 1 takes the whole image.
        resize: pixels a side of a square that the whole image is brought to, for a window of `size` to be cut from
            it at random, in place of the above; where `seed` is None the whole image is the result.
    """
    width, height = image.size
    if resize:
        down, across = (0, 0) if seed is None else (int(x) for x in _offsets(torch.tensor(seed), resize, size))
        x, y, side = width / resize, height / resize, resize if seed is None else size
        box = (across * x, down * y, (across + side) * x, (down + side) * y)
    elif seed is None:
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    elif smallest >= 1:
        box = (0.0, 0.0, float(width), float(height))
    else:
        left, top, across, down = (float(x) for x in _box(torch.tensor(seed), width, height, smallest))
        box = (left, top, min(left + across, width), min(top + down, height))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def to_unit(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]; floats as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images
