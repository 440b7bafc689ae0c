"""Augmentation, compared with slow reference implementations, as a function of the seed alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from understudy.data.augment import Augmentation, _warp, augment, to_unit_range
from understudy.data.crop import center_crop, random_boxes, random_crops, resized
from understudy.randomness import mix

POOL = torch.randint(1, 256, (5, 3, 9, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def seeds(n: int, salt: int = 0) -> Tensor:
    return mix(salt, torch.arange(n))


def windows(image: Tensor, by: int) -> dict[tuple[int, int], np.ndarray]:
    """Every crop of the zero-padded image, by (down, across)."""
    padded = np.pad(image.numpy(), ((0, 0), (by, by), (by, by)))
    height, width = image.shape[1:]
    return {(y, x): padded[:, y : y + height, x : x + width] for y in range(2 * by + 1) for x in range(2 * by + 1)}


@pytest.mark.parametrize("by", [1, 2])
def test_translation_is_a_crop_of_the_padded_image(by: int) -> None:
    n = 400
    rows = torch.arange(n) % len(POOL)
    found = augment(POOL, rows, seeds(n), Augmentation(translate=by))
    assert found.dtype == torch.uint8
    crops = [windows(image, by) for image in POOL]
    counts: dict[tuple[int, int], int] = dict.fromkeys(crops[0], 0)
    for row, view in zip(rows.tolist(), found.numpy(), strict=True):
        (place_of,) = [key for key, crop in crops[row].items() if np.array_equal(crop, view)]
        counts[place_of] += 1
    cells = (2 * by + 1) ** 2
    assert min(counts.values()) > 0, "all offsets occur"
    assert max(counts.values()) < n / cells + 5 * math.sqrt(n / cells)


def test_flip_half() -> None:
    rows = torch.zeros(2000, dtype=torch.int64)
    found = augment(POOL, rows, seeds(2000), Augmentation(flip=True))
    flipped = (found == POOL[0].flip(2)).flatten(1).all(1)
    assert bool((flipped | (found == POOL[0]).flatten(1).all(1)).all())
    assert float(flipped.float().mean()) == pytest.approx(0.5, abs=0.05)


def test_flip_does_not_depend_on_the_shift() -> None:
    n = 2000
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 1] = 1  # flipped, it is to the right of the middle
    image[0, 0, 2, 2] = 2
    found = augment(image, torch.zeros(n, dtype=torch.int64), seeds(n), Augmentation(translate=1, flip=True))
    middle = (found == 2).flatten(1).int().argmax(1)
    side = (found == 1).flatten(1).int().argmax(1) - middle
    assert set(side.tolist()) == {-1, 1}
    assert len(middle.unique()) == 9
    for place_of in middle.unique():
        share = float((side[middle == place_of] == 1).float().mean())
        assert share == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(translate=2, flip=True),
        Augmentation(rotate=15, zoom=0.1, translate=1),
        Augmentation(elastic=1.0),
        Augmentation(noise=0.1),
    ],
)
def test_views_depend_on_their_seed_only(augmentation: Augmentation) -> None:
    rows, some = torch.tensor([0, 3, 3, 1]), seeds(4, 7)
    whole = augment(POOL, rows, some, augmentation)
    assert whole.shape == (4, 3, 9, 7)
    for k in range(4):
        alone = augment(POOL, rows[k : k + 1], some[k : k + 1], augmentation)
        torch.testing.assert_close(alone[0], whole[k], atol=1e-3, rtol=0)
    assert torch.equal(whole, augment(POOL, rows, some, augmentation))
    assert augmentation == Augmentation() or not torch.equal(whole, augment(POOL, rows, seeds(4, 8), augmentation))


def test_vectors_are_not_transformed() -> None:
    vectors = torch.rand(4, 6)
    assert torch.equal(
        augment(vectors, torch.tensor([2, 0]), seeds(2), Augmentation(translate=3, rotate=10)), vectors[[2, 0]]
    )


def test_identity_warp() -> None:
    unit = to_unit_range(POOL)
    torch.testing.assert_close(_warp(unit, seeds(5), Augmentation()), unit, atol=1e-4, rtol=0)
    tiny = augment(unit, torch.arange(5), seeds(5), Augmentation(rotate=1e-6))
    torch.testing.assert_close(tiny, unit, atol=1e-4, rtol=0)


def test_a_warp_that_only_shifts_is_a_translation() -> None:
    unit, rows = to_unit_range(POOL), torch.arange(40) % 5
    for flip in (False, True):
        found = augment(unit, rows, seeds(40), Augmentation(translate=2, rotate=1e-6, flip=flip))
        crops = [[*windows(unit[row], 2).values()] for row in range(5)]
        for row, view in zip(rows.tolist(), found.numpy(), strict=True):
            candidates = crops[row] + ([crop[:, :, ::-1] for crop in crops[row]] if flip else [])
            assert min(np.abs(crop - view).max() for crop in candidates) < 1e-3


def test_rotation_does_not_shear() -> None:
    disc = torch.zeros(1, 1, 41, 61)
    y, x = torch.meshgrid(torch.arange(41) - 20, torch.arange(61) - 30, indexing="ij")
    disc[0, 0] = ((x**2 + y**2) < 12**2).float()
    found = augment(disc, torch.zeros(6, dtype=torch.int64), seeds(6), Augmentation(rotate=90))
    assert float((found - disc).abs().mean()) < 0.01, "a centered disc is unchanged"


@pytest.mark.parametrize("deviation", [0.05, 0.5])
def test_noise_of_vectors_is_normal_and_independent(deviation: float) -> None:
    pool = torch.linspace(-1, 1, 50).repeat(4, 1)
    rows, views = torch.arange(4).repeat(500), seeds(2_000)
    found = augment(pool, rows, views, Augmentation(noise=deviation))
    noise = (found - pool[rows]) / deviation
    ordered = noise.flatten().sort().values
    exact = torch.special.ndtri((torch.arange(len(ordered)) + 0.5) / len(ordered))
    assert float((ordered - exact).abs().mean()) < 0.02
    assert float(torch.corrcoef(noise.T).fill_diagonal_(0).abs().max()) < 0.15
    again = augment(pool, rows[7:9], views[7:9], Augmentation(noise=deviation))
    torch.testing.assert_close(again, found[7:9], rtol=0, atol=0)
    assert augment(pool, rows, views, Augmentation(translate=2, noise=0)).equal(pool[rows])


def test_noise_of_images_is_relative_to_their_range_and_clamped() -> None:
    gray = torch.full((1, 1, 40, 40), 128, dtype=torch.uint8)
    found = augment(gray, torch.zeros(20, dtype=torch.int64), seeds(20), Augmentation(noise=0.1))
    assert found.dtype == torch.float32
    assert float((found - 128).std()) == pytest.approx(25.5, rel=0.02)
    dark = augment(gray * 0, torch.zeros(2, dtype=torch.int64), seeds(2), Augmentation(noise=0.1))
    assert float(dark.min()) == 0
    assert float((dark == 0).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_size_of_the_elastic_displacement() -> None:
    ramp = torch.arange(48.0).expand(1, 1, 48, 48)
    found = augment(ramp, torch.zeros(50, dtype=torch.int64), seeds(50), Augmentation(elastic=1.5))
    moved = (found - ramp)[..., 8:-8, 8:-8]
    assert 0.8 < float(moved.square().mean().sqrt()) < 1.8
    assert abs(float(moved.mean())) < 0.2


# --- records --------------------------------------------------------------------------------------------


def gradient(width: int, height: int) -> Image.Image:
    """Red encodes the column, green the row."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), 0 * x], -1)
    return Image.fromarray(pixels.round().astype(np.uint8))


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def cropped(image: Tensor, some: Tensor, size: int, min_scale: float, resize: int = 0) -> Tensor:
    """Random crops of one image (H, W, C), none of them flipped."""
    return random_crops([image] * len(some), some, size, min_scale, resize, [False] * len(some))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.floats(0.05, 1.0), st.sampled_from([1, 3]),
       st.sampled_from([0, 45]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_crops_have_the_size(width: int, height: int, size: int, min_scale: float, channels: int, resize: int) -> None:
    image = gradient(width, height)
    assert center_crop(image, size, resize).size == (size, size)
    found = cropped(pixels_of(image)[..., :channels], seeds(3, width), size, min_scale, resize)
    assert found.shape == (3, channels, size, size)
    assert found.dtype == torch.uint8


def test_a_center_crop_is_the_center() -> None:
    image = gradient(64, 32)
    square = image.crop((16, 0, 48, 32))
    assert np.array_equal(np.asarray(center_crop(image, 32)), np.asarray(square))
    assert np.array_equal(np.asarray(center_crop(square, 32)), np.asarray(square))


def boxes_of(width: int, height: int, some: Tensor, min_scale: float) -> np.ndarray:
    """Left, top, right and bottom of random crops of images of one size."""
    return np.array(random_boxes(some, torch.tensor([[height, width]] * len(some)), min_scale))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**20), st.floats(0.05, 0.99))
@settings(max_examples=150, deadline=None)
def test_crops_stay_within_their_bounds(width: int, height: int, salt: int, min_scale: float) -> None:
    left, top, right, bottom = boxes_of(width, height, seeds(20, salt), min_scale).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    across, down = right - left, bottom - top
    assert across.min() >= 1
    assert down.min() >= 1
    free = (across < width) & (down < height)  # not clipped by the image's own edge
    assert ((across[free] + 0.5) * (down[free] + 0.5) >= min_scale * width * height * (1 - 1e-6)).all()
    assert ((across[free] + 0.5) / (down[free] - 0.5) >= 3 / 4 - 1e-6).all()
    assert ((across[free] - 0.5) / (down[free] + 0.5) <= 4 / 3 + 1e-6).all()


def test_crops_of_a_square_fill_the_range_of_areas() -> None:
    left, top, right, bottom = boxes_of(100, 100, seeds(300), 0.2).T
    shares = (right - left) * (bottom - top) / 1e4
    assert 0.19 < shares.min() < 0.25
    assert shares.max() > 0.9
    assert shares.mean() == pytest.approx(0.6, abs=0.05)
    assert boxes_of(100, 50, seeds(1), 1.0).tolist() == [[0, 0, 100, 50]]


def test_the_box_of_an_image_does_not_depend_on_the_others() -> None:
    some, sizes = seeds(9), torch.tensor([[30 + 7 * k, 90 - 5 * k] for k in range(9)])
    together = random_boxes(some, sizes, 0.1)
    assert together == [random_boxes(some[k : k + 1], sizes[k : k + 1], 0.1)[0] for k in range(9)]


@pytest.mark.parametrize("size", [16, 50])
def test_crops_are_those_of_pillow(size: int) -> None:
    """The crop, cut out and resized by Pillow, but for rounding."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image, some = Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC), seeds(12)
    found = cropped(pixels_of(image), some, size, 0.1)
    for box, crop in zip(boxes_of(160, 120, some, 0.1).tolist(), found, strict=True):
        expected = image.crop(tuple(box)).resize((size, size), Image.Resampling.BICUBIC)
        assert int((pixels_of(expected).permute(2, 0, 1).int() - crop.int()).abs().max()) <= 1


def test_flipped_crops() -> None:
    image, some, flips = pixels_of(gradient(40, 30)), seeds(4), [True, False, False, True]
    plain, found = cropped(image, some, 9, 0.3), random_crops([image] * 4, some, 9, 0.3, 0, flips)
    for k, flip in enumerate(flips):
        assert torch.equal(found[k], plain[k].flip(2) if flip else plain[k])


def test_whole_images_resized_before_the_crop() -> None:
    image, some = pixels_of(gradient(40, 30)), seeds(50)
    whole = resized(image, 12)
    places = {(y, x): whole[:, y : y + 9, x : x + 9] for y in range(4) for x in range(4)}
    found = [
        [key for key, place in places.items() if torch.equal(place, crop)] for crop in cropped(image, some, 9, 1.0, 12)
    ]
    assert all(found)
    assert len({key for keys in found for key in keys}) == 16, "every place occurs"


@given(st.integers(1, 99), st.sampled_from([0.08, 0.5, 0.95]))
@settings(max_examples=30, deadline=None)
def test_arrays_and_decoded_images_have_the_same_crops(salt: int, min_scale: float) -> None:
    """The same box for the same seed, in whole pixels if decoded; on a gradient, the two interpolations agree."""
    across = torch.arange(24.0).expand(24, 24)
    slope = torch.stack([across, across.T, across + across.T]).round().to(torch.uint8) * 5
    some = seeds(3, salt)
    found = augment(slope[None], torch.zeros(3, dtype=torch.int64), some, Augmentation(crop_scale=min_scale))
    assert found.shape == (3, 3, 24, 24)
    assert found.dtype == torch.float32
    decoded = cropped(slope.permute(1, 2, 0).contiguous(), some, 24, min_scale).float()
    within = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    pixel = torch.tensor([5.0, 5.0, 10.0])[:, None, None]  # the gradient over a pixel
    assert bool(((found[within] - decoded[within]).abs() <= 2 + pixel).all())


def test_crops_of_an_array_have_the_right_area_and_aspect() -> None:
    """A gradient along each axis gives the edges of a crop."""
    down = torch.arange(64.0)[:, None].expand(64, 64)
    pool = torch.stack([down, down.T])[None]
    n, min_scale = 500, 0.25
    found = augment(pool, torch.zeros(n, dtype=torch.int64), seeds(n), Augmentation(crop_scale=min_scale))
    middle = found[:, :, 8:-8, 8:-8]  # away from the edges, which are padded
    height = (middle[:, 0, -1, 0] - middle[:, 0, 0, 0]) / 47 * 64
    width = (middle[:, 1, 0, -1] - middle[:, 1, 0, 0]) / 47 * 64
    area, aspect = height * width / 64**2, width / height
    assert min_scale * 0.93 < float(area.min()) < min_scale * 1.2
    assert float(area.max()) > 0.9
    assert 0.74 < float(aspect.min()) < 0.8
    assert 1.25 < float(aspect.max()) < 1.34
