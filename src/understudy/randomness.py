"""Counter randomness: every random number is a pure function of the keys that name it.

Nothing here has a state, so nothing has to be saved, and neither workers, ranks, the order of the work nor
the place where a run was resumed can change a draw. Keys are mixed by the finalizer of SplitMix64 (Steele,
Lea, Flood 2014), per-unit bits by a 32-bit avalanche hash; both run vectorized on any device.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import cache
from itertools import takewhile
from typing import cast

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int, bits: int = 64) -> int:
    """The two's-complement value that torch's signed integers hold for these bits."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _shift(x: Tensor, by: int, bits: int = 64) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (x >> by) & ((1 << (bits - by)) - 1)


def _finalize(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(_M1)
    x = (x ^ _shift(x, 27)) * _signed(_M2)
    return x ^ _shift(x, 31)


def name_key(name: str) -> int:
    """A stable integer for a name, for use as a key."""
    return zlib.crc32(name.encode())


def _finalize_int(x: int) -> int:
    """`_finalize` of one number of 64 bits, many times faster than on a tensor of one."""
    x = ((x ^ (x >> 30)) * _M1) & _MASK
    x = ((x ^ (x >> 27)) * _M2) & _MASK
    return x ^ (x >> 31)


def mix(*keys: int | Tensor) -> Tensor:
    """Mix keys into int64 hashes. Tensors broadcast against each other; the order of the keys matters."""
    plain = list(takewhile(lambda key: not isinstance(key, Tensor), keys))
    # numbers stay numbers until they meet a tensor: one made of them would be copied to the device at each call
    state: int | Tensor = _signed(_mixed(cast("list[int]", plain)))
    for key in keys[len(plain) :]:
        key = key.to(torch.int64) if isinstance(key, Tensor) else _signed(key)
        state = _finalize((key ^ state) + _signed(_GOLDEN))  # type: ignore[arg-type]  # one of them is a tensor
    return state if isinstance(state, Tensor) else torch.tensor(state)


def _mixed(keys: Iterable[int]) -> int:
    state = 0
    for key in keys:
        state = _finalize_int(((state ^ (key & _MASK)) + _GOLDEN) & _MASK)
    return state


def seed_of(*keys: int) -> int:
    """The same as `mix` for plain integers, as a non-negative Python int fit for `manual_seed`."""
    return _mixed(keys) & (2**63 - 1)


def uniform(seeds: Tensor, stream: int | Tensor) -> Tensor:
    """Uniform float32 in [0, 1), one for each seed; `stream` tells independent draws apart, and can be several."""
    return _shift(mix(seeds, stream), 40).to(torch.float32) * 2.0**-24


def integers(seeds: Tensor, stream: int, low: int, high: int) -> Tensor:
    """Uniform int64 in [low, high), one for each seed."""
    return low + _shift(mix(seeds, stream), 16) % (high - low)


def beta(alpha: float, seeds: Tensor, stream: int) -> Tensor:
    """Float32 draws from Beta(alpha, alpha), one for each seed: its quantiles at 65,536 equidistant probabilities."""
    return _beta_quantiles(alpha, seeds.device)[_shift(mix(seeds, stream), 48)]


@cache
def _beta_quantiles(alpha: float, device: torch.device) -> Tensor:
    from scipy.special import betaincinv

    quantiles = betaincinv(alpha, alpha, (np.arange(2**16) + 0.5) * 2.0**-16)
    return torch.from_numpy(quantiles).to(device, torch.float32)


def permutation(n: int, *keys: int) -> Tensor:
    """A permutation of range(n), (n,) int64, drawn by sorting n hashes."""
    return torch.argsort(mix(*keys, torch.arange(n)), stable=True)


def unit_bits(rows: Tensor, units: int) -> Tensor:
    """16 random bits for every (row, unit) as int16, (len(rows), units).

    `rows` are int64 seeds. One 32-bit hash serves two units; an order of magnitude faster on a CPU than a
    sequential generator, and a row's bits do not depend on which other rows are in the batch.
    """
    pairs = (units + 1) // 2
    counter = torch.arange(pairs, dtype=torch.int32, device=rows.device) * _signed(_GOLDEN, 32)
    x = rows.to(torch.int32)[:, None] ^ counter
    x.bitwise_xor_(_shift(x, 16, 32)).mul_(0x7FEB352D)
    x.bitwise_xor_(_shift(x, 15, 32)).mul_(_signed(0x846CA68B, 32))
    x.bitwise_xor_(_shift(x, 16, 32))
    return x.view(torch.int16)[:, :units]


def normal(rows: Tensor, units: int) -> Tensor:
    """Standard normal float32 for every (row, unit), (len(rows), units), from 16 bits each: none is beyond 4.2."""
    return torch.special.ndtri((unit_bits(rows, units).to(torch.float32) + 32768.5) * 2.0**-16)
