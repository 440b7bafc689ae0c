"""How a teacher's answers lie in a file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.teachers.encoding import Compact, Encoding, Float16, Int8


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
        assert one.encode(values).shape == (5, one.row_bytes((width,)))


def low_rank(seed: int, rows: int, classes: int, scale: float, rank: int = 12) -> Tensor:
    """Logits as a teacher gives them: some directions of decreasing size, noise, and a class that stands out."""
    random = torch.Generator().manual_seed(seed)
    axes = torch.randn(rank, classes, generator=torch.Generator().manual_seed(classes))
    found = torch.randn(rows, rank, generator=random) / torch.arange(1, rank + 1).sqrt() @ axes
    found += 0.05 * torch.randn(rows, classes, generator=random)
    return scale * found.scatter_add(1, torch.randint(classes, (rows, 1), generator=random), torch.full((rows, 1), 4.0))


def divergence(logits: Tensor, found: Tensor, temperature: float) -> float:
    """KL of softened distributions, in nats, on average."""
    true, other = ((x / temperature).log_softmax(1) for x in (logits, found))
    return float((true.exp() * (true - other)).sum(1).mean())


def top_ten(logits: Tensor) -> Tensor:
    """What keeping the ten largest, and the mean probability of the others, would give: 30 bytes and more."""
    log_probs = logits.log_softmax(1)
    top, places = log_probs.topk(10, 1)
    others = log_probs.scatter(1, places, -torch.inf).logsumexp(1, keepdim=True)
    return (others - np.log(logits.shape[1] - 10)).expand_as(logits).scatter(1, places, top)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("classes", [17, 40, 100, 1000, 10_000])
def test_compact_logits_give_the_soft_targets_of_new_views(classes: int, temperature: float) -> None:
    compact, logits = Compact.fit(low_rank(0, 600, classes, 2.0)), low_rank(1, 200, classes, 2.0)
    rows = compact.encode(logits)
    assert rows.shape == (200, 32)
    found = compact.decode(rows)
    assert divergence(logits, found, temperature) < 0.1
    assert temperature == 1 or divergence(logits, found, temperature) < 0.5 * divergence(
        logits, top_ten(logits), temperature
    )
    assert float((found.argmax(1) == logits.argmax(1)).float().mean()) > 0.9


@given(st.integers(0, 10**6), st.floats(0.05, 10.0), st.floats(-100, 100))
@settings(max_examples=20, deadline=None)
def test_compact_rows_do_not_depend_on_a_constant_or_on_their_batch(seed: int, scale: float, constant: float) -> None:
    compact, logits = Compact.fit(low_rank(0, 300, 80, scale)), low_rank(seed, 8, 80, scale)
    rows = compact.encode(logits)
    moved = compact.decode(compact.encode(logits + constant)).softmax(1)
    assert float((moved - compact.decode(rows).softmax(1)).abs().sum(1).mean()) < 0.02  # codes at the middle of a step
    torch.testing.assert_close(compact.decode(rows)[2:5], compact.decode(rows[2:5]), rtol=1e-5, atol=1e-4)


def test_a_basis_is_a_function_of_the_answers_and_comes_back_whole(tmp_path: Path) -> None:
    logits = low_rank(0, 300, 90, 1.0)
    one, other = Compact.fit(logits), Compact.fit(logits.clone())
    assert one.to_bytes() == other.to_bytes()
    (tmp_path / "basis.npz").write_bytes(one.to_bytes())
    rows = one.encode(logits)
    assert torch.equal(Compact.read(tmp_path / "basis.npz").decode(rows), one.decode(rows))
    gram = one.directions @ one.directions.T
    torch.testing.assert_close(gram, gram.diag().diag(), rtol=0, atol=1e-4 * float(gram.max()))
    damaged = bytearray(one.to_bytes())
    damaged[200] ^= 1
    (tmp_path / "basis.npz").write_bytes(damaged)
    with pytest.raises(UnderstudyError, match="label the data again"):
        Compact.read(tmp_path / "basis.npz")


@pytest.mark.parametrize("rows", [2, 5, 39])
def test_a_basis_of_few_answers_knows_them(rows: int) -> None:
    logits = low_rank(0, rows, 100, 1.0)
    compact = Compact.fit(logits)
    assert divergence(logits, compact.decode(compact.encode(logits)), 1.0) < 0.02


def test_compact_is_read_by_numpy_as_documented() -> None:
    logits = low_rank(0, 100, 300, 3.0)
    compact = Compact.fit(logits)
    view = compact.encode(logits).numpy()
    basis = np.load(BytesIO(compact.to_bytes()))
    codes = np.stack([view[:, 12:] & 15, view[:, 12:] >> 4], 2).reshape(len(view), 40)
    found = basis["mean"] + (codes - 7.5) @ basis["directions"]
    places = view[:, :8].copy().view("<u2").astype(int)
    added = basis["step"] * view[:, 8:12].copy().view(np.int8)
    np.put_along_axis(found, places, np.take_along_axis(found, places, 1) + added, axis=1)
    np.testing.assert_allclose(found, compact.decode(torch.from_numpy(view)).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("one", [Float16((100,)), Int8((100,)), Compact.fit(low_rank(0, 200, 100, 1.0))])
def test_extremes_stay_finite(one: Encoding) -> None:
    extreme = torch.zeros(3, 100)
    extreme[0, 3], extreme[1, 4], extreme[2] = 1e30, -1e30, 0.0
    found = one.decode(one.encode(extreme))
    assert found.isfinite().all()
    assert int(found[0].argmax()) == 3
