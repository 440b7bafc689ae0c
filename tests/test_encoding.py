"""How a teacher's answers lie in a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from understudy.teachers.encoding import ENCODINGS, Float16, Int8, TopTen


def drawn(seed: int, rows: int, width: int, scale: float) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * scale


@given(st.integers(0, 10**6), st.integers(1, 70), st.floats(0.01, 1000.0))
@settings(max_examples=30, deadline=None)
def test_values_come_back_within_the_steps_of_their_type(seed: int, width: int, scale: float) -> None:
    values = drawn(seed, 5, width, scale)
    half, eight = Float16((width,)), Int8((width,))
    torch.testing.assert_close(half.decode(half.encode(values)), values, rtol=1e-3, atol=1e-5)
    step = values.abs().amax(1, keepdim=True) / 127
    largest = values.abs().amax(1, keepdim=True)
    rounding = 0.001 * largest + 2e-7  # of float16
    assert bool(((eight.decode(eight.encode(values)) - values).abs() <= 0.51 * step + rounding).all())
    for one in (half, eight):
        assert one.encode(values).shape == (5, one.row_bytes)


@given(st.integers(0, 10**6), st.sampled_from([65, 100, 1000, 21_843]), st.floats(0.1, 4.0))
@settings(max_examples=30, deadline=None)
def test_ten_classes_keep_their_probabilities_and_the_others_their_mass(seed: int, classes: int, scale: float) -> None:
    """Within half a step of the codes, which are finest where classes are likely."""
    logits = drawn(seed, 4, classes, scale)
    ten = TopTen((classes,))
    rows = ten.encode(logits)
    assert rows.shape == (4, 32)
    log_probs = logits.log_softmax(1)
    top, places = log_probs.topk(10, 1)
    found = ten.decode(rows)

    def close(x: Tensor, y: Tensor) -> bool:
        return bool(((x - y).abs() <= (-32 * y).sqrt() / 255 + 1e-3).all())

    assert close(found.gather(1, places), top)
    others = log_probs.scatter(1, places, -torch.inf)
    mean = others.logsumexp(1) - torch.tensor(float(classes - 10)).log()
    rest = found.scatter(1, places, -torch.inf).amax(1)
    assert close(rest, mean)
    assert bool((found.scatter(1, places, torch.inf).amin(1) == rest).all()), "the same for all others"


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 8.0])
def test_the_others_keep_their_mass_at_a_temperature(temperature: float) -> None:
    """Where their logits are about normally distributed."""
    logits = drawn(0, 500, 1000, 2.0)
    ten = TopTen((1000,), temperature)
    places = logits.topk(10, 1).indices
    kept = [(x / temperature).softmax(1).gather(1, places).sum(1) for x in (logits, ten.decode(ten.encode(logits)))]
    assert float((kept[0] - kept[1]).abs().mean()) < 0.01
    plain = (TopTen((1000,)).decode(ten.encode(logits)) / temperature).softmax(1).gather(1, places).sum(1)
    assert temperature < 4 or float((kept[0] - plain).abs().mean()) > 2 * float((kept[0] - kept[1]).abs().mean())


def test_top10_is_read_by_numpy_as_documented() -> None:
    logits = drawn(1, 6, 300, 3.0)
    rows = TopTen((300,)).encode(logits).numpy()
    classes = rows[:, :20].copy().view("<u2").astype(int)
    values = -32 * (rows[:, 20:] / 255.0) ** 2
    log_probs = np.repeat(values[:, 10:11], 300, axis=1)
    np.put_along_axis(log_probs, classes, values[:, :10], axis=1)
    np.testing.assert_allclose(log_probs, TopTen((300,)).decode(torch.from_numpy(rows)).numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", ENCODINGS)
def test_extremes_stay_finite(name: str) -> None:
    one = ENCODINGS[name]((100,))
    extreme = torch.zeros(3, 100)
    extreme[0, 3], extreme[1, 4], extreme[2] = 1e30, -1e30, 0.0
    found = one.decode(one.encode(extreme))
    assert found.isfinite().all()
    assert int(found[0].argmax()) == 3
