"""Views: against slow plain ones, and as functions of the seed alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from understudy.data.views import ViewPlan, _warp, place, to_unit, vary
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
def test_jitter_is_a_crop_of_the_padded_image(by: int) -> None:
    n = 400
    rows = torch.arange(n) % len(POOL)
    found = vary(POOL, rows, seeds(n), ViewPlan(jitter=by))
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
    found = vary(POOL, rows, seeds(2000), ViewPlan(flip=True))
    mirrored = (found == POOL[0].flip(2)).flatten(1).all(1)
    assert bool((mirrored | (found == POOL[0]).flatten(1).all(1)).all())
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.05)


def test_flip_does_not_depend_on_the_shift() -> None:
    n = 2000
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 1] = 1  # mirrored, it lies right of the middle
    image[0, 0, 2, 2] = 2
    found = vary(image, torch.zeros(n, dtype=torch.int64), seeds(n), ViewPlan(jitter=1, flip=True))
    middle = (found == 2).flatten(1).int().argmax(1)
    side = (found == 1).flatten(1).int().argmax(1) - middle
    assert set(side.tolist()) == {-1, 1}
    assert len(middle.unique()) == 9
    for place_of in middle.unique():
        share = float((side[middle == place_of] == 1).float().mean())
        assert share == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    "plan",
    [
        ViewPlan(),
        ViewPlan(jitter=2, flip=True),
        ViewPlan(rotate=15, zoom=0.1, jitter=1),
        ViewPlan(elastic=1.0),
        ViewPlan(noise=0.1),
    ],
)
def test_views_depend_on_their_seed_only(plan: ViewPlan) -> None:
    assert plan.still == (plan == ViewPlan())
    rows, some = torch.tensor([0, 3, 3, 1]), seeds(4, 7)
    whole = vary(POOL, rows, some, plan)
    assert whole.shape == (4, 3, 9, 7)
    for k in range(4):
        alone = vary(POOL, rows[k : k + 1], some[k : k + 1], plan)
        torch.testing.assert_close(alone[0], whole[k], atol=1e-3, rtol=0)
    assert torch.equal(whole, vary(POOL, rows, some, plan))
    assert plan.still or not torch.equal(whole, vary(POOL, rows, seeds(4, 8), plan))


def test_vectors_are_never_moved() -> None:
    vectors = torch.rand(4, 6)
    assert torch.equal(vary(vectors, torch.tensor([2, 0]), seeds(2), ViewPlan(jitter=3, rotate=10)), vectors[[2, 0]])


def test_a_warp_with_nothing_to_do() -> None:
    unit = to_unit(POOL)
    torch.testing.assert_close(_warp(unit, seeds(5), ViewPlan()), unit, atol=1e-4, rtol=0)
    tiny = vary(unit, torch.arange(5), seeds(5), ViewPlan(rotate=1e-6))
    torch.testing.assert_close(tiny, unit, atol=1e-4, rtol=0)


def test_a_warp_that_only_shifts_is_the_jitter() -> None:
    unit, rows = to_unit(POOL), torch.arange(40) % 5
    for flip in (False, True):
        found = vary(unit, rows, seeds(40), ViewPlan(jitter=2, rotate=1e-6, flip=flip))
        crops = [[*windows(unit[row], 2).values()] for row in range(5)]
        for row, view in zip(rows.tolist(), found.numpy(), strict=True):
            candidates = crops[row] + ([crop[:, :, ::-1] for crop in crops[row]] if flip else [])
            assert min(np.abs(crop - view).max() for crop in candidates) < 1e-3


def test_rotation_keeps_the_shape_of_things() -> None:
    disc = torch.zeros(1, 1, 41, 61)
    y, x = torch.meshgrid(torch.arange(41) - 20, torch.arange(61) - 30, indexing="ij")
    disc[0, 0] = ((x**2 + y**2) < 12**2).float()
    found = vary(disc, torch.zeros(6, dtype=torch.int64), seeds(6), ViewPlan(rotate=90))
    assert float((found - disc).abs().mean()) < 0.01, "a disc turned about the centre stays a disc"


@pytest.mark.parametrize("deviation", [0.05, 0.5])
def test_noise_of_vectors_is_normal_and_its_views_own(deviation: float) -> None:
    pool = torch.linspace(-1, 1, 50).repeat(4, 1)
    rows, views = torch.arange(4).repeat(500), seeds(2_000)
    found = vary(pool, rows, views, ViewPlan(noise=deviation))
    noise = (found - pool[rows]) / deviation
    ordered = noise.flatten().sort().values
    exact = torch.special.ndtri((torch.arange(len(ordered)) + 0.5) / len(ordered))
    assert float((ordered - exact).abs().mean()) < 0.02
    assert float(torch.corrcoef(noise.T).fill_diagonal_(0).abs().max()) < 0.15
    again = vary(pool, rows[7:9], views[7:9], ViewPlan(noise=deviation))
    torch.testing.assert_close(again, found[7:9], rtol=0, atol=0)
    assert vary(pool, rows, views, ViewPlan(jitter=2, noise=0)).equal(pool[rows])


def test_noise_of_images_is_a_share_of_their_range_and_stays_within_it() -> None:
    grey = torch.full((1, 1, 40, 40), 128, dtype=torch.uint8)
    found = vary(grey, torch.zeros(20, dtype=torch.int64), seeds(20), ViewPlan(noise=0.1))
    assert found.dtype == torch.float32
    assert float((found - 128).std()) == pytest.approx(25.5, rel=0.02)
    dark = vary(grey * 0, torch.zeros(2, dtype=torch.int64), seeds(2), ViewPlan(noise=0.1))
    assert float(dark.min()) == 0
    assert float((dark == 0).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_size_of_the_elastic_displacement() -> None:
    ramp = torch.arange(48.0).expand(1, 1, 48, 48)
    found = vary(ramp, torch.zeros(50, dtype=torch.int64), seeds(50), ViewPlan(elastic=1.5))
    moved = (found - ramp)[..., 8:-8, 8:-8]
    assert 0.8 < float(moved.square().mean().sqrt()) < 1.8
    assert abs(float(moved.mean())) < 0.2


# --- records --------------------------------------------------------------------------------------------


def gradient(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), 0 * x], -1)
    return Image.fromarray(pixels.round().astype(np.uint8))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.none() | st.integers(0, 2**62),
       st.floats(0.05, 1.0))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_place_gives_the_size(width: int, height: int, size: int, seed: int | None, smallest: float) -> None:
    assert place(gradient(width, height), size, seed, smallest).size == (size, size)


def test_place_without_a_seed_is_the_centre() -> None:
    image = gradient(64, 32)
    found = np.asarray(place(image, 32, None, 0.1))
    assert np.array_equal(found, np.asarray(image.crop((16, 0, 48, 32))))
    assert np.array_equal(np.asarray(place(image.crop((0, 0, 32, 32)), 32, None, 0.1)),
                          np.asarray(image.crop((0, 0, 32, 32))))  # fmt: skip


class Spy:
    """An image that only notes the box it is asked for."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)

    def resize(self, size: tuple[int, int], resample: object, box: tuple[float, ...], reducing_gap: float):
        return box


@given(st.integers(20, 400), st.integers(20, 400), st.integers(0, 2**62), st.floats(0.05, 0.99))
@settings(max_examples=150, deadline=None)
def test_crops_stay_within_their_bounds(width: int, height: int, seed: int, smallest: float) -> None:
    left, top, right, bottom = place(Spy(width, height), 8, seed, smallest)  # type: ignore[arg-type, misc]
    assert 0 <= left < right <= width + 1e-6
    assert 0 <= top < bottom <= height + 1e-6
    across, down = right - left, bottom - top
    share = across * down / (width * height)
    assert share <= 1 + 1e-9
    if across < width - 1e-6 and down < height - 1e-6:  # not clipped by the image's own edge
        assert share >= smallest - 1e-9
        assert 3 / 4 - 1e-6 <= across / down <= 4 / 3 + 1e-6


def test_crops_of_a_square_fill_the_range_of_areas() -> None:
    boxes = [place(Spy(100, 100), 8, int(s), 0.2) for s in seeds(300)]  # type: ignore[arg-type]
    shares = [(b[2] - b[0]) * (b[3] - b[1]) / 1e4 for b in boxes]  # type: ignore[index]
    assert 0.19 < min(shares) < 0.25
    assert max(shares) > 0.9
    assert sum(shares) / 300 == pytest.approx(0.6, abs=0.05)
    assert place(Spy(100, 50), 8, 3, 1.0) == (0, 0, 100, 50)  # type: ignore[arg-type]


@given(st.integers(1, 99), st.sampled_from([0.08, 0.5, 0.95]))
@settings(max_examples=30, deadline=None)
def test_a_crop_of_an_array_is_that_of_the_decoded_image(seed: int, smallest: float) -> None:
    """The same box for the same seed, up to the two interpolations: on a slope these agree."""
    across = torch.arange(24.0).expand(24, 24)
    slope = torch.stack([across, across.T, across + across.T]).round().to(torch.uint8) * 5
    found = vary(slope[None], torch.tensor([0]), torch.tensor([seed]), ViewPlan(crop=smallest))
    image = place(Image.fromarray(slope.permute(1, 2, 0).numpy()), 24, seed, smallest)
    assert found.shape == (1, 3, 24, 24)
    assert found.dtype == torch.float32
    decoded = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    torch.testing.assert_close(found[0][:, 2:-2, 2:-2], decoded[:, 2:-2, 2:-2], atol=2.0, rtol=0)


def test_crops_of_an_array_keep_their_share_and_form() -> None:
    """A slope along each axis tells where a crop's edges lie."""
    down = torch.arange(64.0)[:, None].expand(64, 64)
    pool = torch.stack([down, down.T])[None]
    n, smallest = 500, 0.25
    found = vary(pool, torch.zeros(n, dtype=torch.int64), seeds(n), ViewPlan(crop=smallest))
    middle = found[:, :, 8:-8, 8:-8]  # off the edges, beyond which nothing is known
    height = (middle[:, 0, -1, 0] - middle[:, 0, 0, 0]) / 47 * 64
    width = (middle[:, 1, 0, -1] - middle[:, 1, 0, 0]) / 47 * 64
    area, aspect = height * width / 64**2, width / height
    assert smallest * 0.93 < float(area.min()) < smallest * 1.2
    assert float(area.max()) > 0.9
    assert 0.74 < float(aspect.min()) < 0.8
    assert 1.25 < float(aspect.max()) < 1.34
