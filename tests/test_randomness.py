"""Counter randomness: pure functions of their keys, and random enough."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.randomness import integers, mix, name_key, permutation, seed_of, uniform, unit_bits

KEYS = st.integers(-(2**63), 2**63 - 1)
MASK = 2**64 - 1


def plain_mix(*keys: int) -> int:
    """SplitMix64's finalizer in Python's own integers."""
    state = 0
    for key in keys:
        x = ((state ^ (key & MASK)) + 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        state = x ^ (x >> 31)
    return state


def test_the_first_value_of_splitmix64() -> None:
    assert int(mix(0)) & MASK == 0xE220A8397B1DCDAF  # the published first output for seed 0


@given(st.lists(KEYS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_mix_is_splitmix64_of_ints_and_tensors(keys: list[int]) -> None:
    assert int(mix(*keys)) & MASK == plain_mix(*keys)
    assert seed_of(*keys) == plain_mix(*keys) & (2**63 - 1)
    for place in range(len(keys)):
        mixed = [torch.tensor([k, 5]) if i == place else k for i, k in enumerate(keys)]
        assert int(mix(*mixed)[0]) & MASK == plain_mix(*keys)
        swapped = [5 if i == place else k for i, k in enumerate(keys)]
        assert int(mix(*mixed)[1]) & MASK == plain_mix(*swapped)


@given(KEYS, KEYS)
@settings(max_examples=40, deadline=None)
def test_order_matters(a: int, b: int) -> None:
    assert (int(mix(a, b)) == int(mix(b, a))) == (a == b)


def test_keys_broadcast() -> None:
    table = mix(torch.arange(3)[:, None], 7, torch.arange(4))
    assert table.shape == (3, 4)
    assert int(table[2, 1]) == int(mix(2, 7, 1))
    assert len(table.unique()) == 12


def test_name_key_is_stable() -> None:
    assert name_key("123456789") == 0xCBF43926  # the check value of CRC-32


def test_uniform_moments() -> None:
    x = uniform(torch.arange(100_000), 3)
    assert x.dtype == torch.float32
    assert 0 <= float(x.min()) < 1e-3
    assert 1 - 1e-3 < float(x.max()) < 1
    assert float(x.mean()) == pytest.approx(1 / 2, abs=0.005)
    assert float(x.var()) == pytest.approx(1 / 12, abs=0.001)
    counts = torch.histc(x, 20, 0, 1)
    assert float((counts - 5000).square().sum() / 5000) < 50  # chi squared of 19 degrees: 1 in 10,000
    other = uniform(torch.arange(100_000), 4)
    assert abs(float(torch.corrcoef(torch.stack([x, other]))[0, 1])) < 0.015
    assert abs(float(torch.corrcoef(torch.stack([x[1:], x[:-1]]))[0, 1])) < 0.015


@given(st.integers(-5, 5), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_integers_reach_all_and_only_their_range(low: int, width: int, stream: int) -> None:
    found = integers(torch.arange(1000), stream, low, low + width)
    assert sorted(found.unique().tolist()) == list(range(low, low + width))


@given(st.integers(0, 300), KEYS, st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_permutation(n: int, seed: int, epoch: int) -> None:
    found = permutation(n, seed, epoch)
    assert sorted(found.tolist()) == list(range(n))
    assert torch.equal(found, permutation(n, seed, epoch))
    if n > 30:
        assert not torch.equal(found, permutation(n, seed, epoch + 1))


@given(st.lists(KEYS, min_size=1, max_size=6), st.integers(1, 33), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_bits_of_a_row_are_its_own(rows: list[int], units: int, order) -> None:
    whole = unit_bits(torch.tensor(rows), units)
    assert whole.shape == (len(rows), units)
    assert whole.dtype == torch.int16
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    again = unit_bits(torch.tensor([rows[i] for i in shuffled]), units)
    assert torch.equal(again, whole[shuffled])
    assert torch.equal(unit_bits(torch.tensor(rows[:1]), units), whole[:1])
    assert torch.equal(unit_bits(torch.tensor(rows), units + 5)[:, :units], whole)


def test_bits_are_uniform_and_independent() -> None:
    bits = unit_bits(mix(1, torch.arange(2000)), 101).double()
    assert float(bits.mean()) == pytest.approx(-0.5, abs=200)  # 18919 / sqrt(202,000) = 42 a standard error
    assert float(bits.std()) == pytest.approx(65536 / 12**0.5, rel=0.01)
    share = torch.histc(bits, 16, -32768, 32767) / bits.numel()
    assert float((share * 16 - 1).abs().max()) < 0.05
    for bit in range(16):
        ones = ((bits.long() >> bit) & 1).double().mean()
        assert float(ones) == pytest.approx(0.5, abs=0.006), bit
    z = (bits - bits.mean()) / bits.std()
    for step in (1, 2, 3, 50):
        assert abs(float((z[:, step:] * z[:, :-step]).mean())) < 0.012, f"units {step} apart"
        assert abs(float((z[step:] * z[:-step]).mean())) < 0.012, f"rows {step} apart"
