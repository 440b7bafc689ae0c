"""How a teacher's answers lie in a file: rows of a fixed number of bytes, little-endian.

float16  the values themselves
int8     the largest magnitude as float16, then int8 values: value = largest * int8 / 127
top10    of class probabilities at temperature 1: the 10 most probable classes as uint16, the codes of their
         log-probabilities as uint8, and two codes for the other classes: of the logarithm of their mean probability,
         and of the mean of their log-probabilities. Code c stands for -32 (c / 255)^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

TOP = 10
_DEEPEST = 32.0  # nats
_LARGEST = 65_504.0  # of float16


class Encoding(Protocol):
    """Rows of bytes for values of one shape."""

    name: ClassVar[str]

    @property
    def row_bytes(self) -> int: ...
    def encode(self, values: Tensor) -> Tensor:
        """(B, *shape) floats -> (B, row_bytes) uint8."""
        ...

    def decode(self, rows: Tensor) -> Tensor:
        """(B, row_bytes) uint8 -> (B, *shape) float32, on the same device."""
        ...


@dataclass(frozen=True)
class Float16:
    """The values, as far as float16 goes.

    >>> half = Float16((2,))
    >>> half.row_bytes, half.decode(half.encode(torch.tensor([[0.5, -2.0]])))
    (4, tensor([[ 0.5000, -2.0000]]))
    """

    name: ClassVar[str] = "float16"
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return 2 * prod(self.shape)

    def encode(self, values: Tensor) -> Tensor:
        half = values.float().clamp(-_LARGEST, _LARGEST).half()
        return half.reshape(len(values), -1).contiguous().view(torch.uint8)

    def decode(self, rows: Tensor) -> Tensor:
        return rows.contiguous().view(torch.float16).float().view(-1, *self.shape)


@dataclass(frozen=True)
class Int8:
    """The values in 255 steps between the largest of a row and its negative.

    >>> eight = Int8((3,))
    >>> eight.row_bytes, eight.decode(eight.encode(torch.tensor([[127.0, -1.0, 0.4]])))
    (5, tensor([[127.,  -1.,   0.]]))
    """

    name: ClassVar[str] = "int8"
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return 2 + prod(self.shape)

    def encode(self, values: Tensor) -> Tensor:
        flat = values.float().clamp(-_LARGEST, _LARGEST).flatten(1)
        largest = flat.abs().amax(1, keepdim=True).half()
        steps = (127 * flat / largest.float().clamp_min(1e-12)).round().clamp(-127, 127).to(torch.int8)
        return torch.cat([largest.contiguous().view(torch.uint8), steps.view(torch.uint8)], 1)

    def decode(self, rows: Tensor) -> Tensor:
        largest = rows[:, :2].flatten().clone().view(torch.float16).float()[:, None]  # rows of odd length
        return (largest * rows[:, 2:].contiguous().view(torch.int8) / 127).view(-1, *self.shape)


@dataclass(frozen=True)
class TopTen:
    """The ten most probable classes, and what the others have, in 32 bytes.

    Decoded are log-probabilities, one for all others: as logits at `temperature` they give the others about what they
    had, exactly so at temperature 1, and at any where their logits are normally distributed.

    >>> ten = TopTen((100,))
    >>> logits = torch.arange(100.0).view(1, -1) / 5
    >>> ten.row_bytes, ten.decode(ten.encode(logits)).softmax(1)[0, [99, 98]]
    (32, tensor([0.1781, 0.1490]))
    >>> logits.softmax(1)[0, [99, 98]]
    tensor([0.1813, 0.1484])
    """

    name: ClassVar[str] = "top10"
    shape: tuple[int, ...]
    temperature: float = 1.0

    @property
    def row_bytes(self) -> int:
        return 3 * TOP + 2

    def encode(self, values: Tensor) -> Tensor:
        log_probs = values.float().log_softmax(1)
        top, classes = log_probs.topk(TOP, 1)
        others = log_probs.scatter(1, classes, -torch.inf)
        count = self.shape[0] - TOP
        mass = others.logsumexp(1, keepdim=True) - torch.tensor(float(count)).log()
        mean = log_probs.scatter(1, classes, 0.0).sum(1, keepdim=True) / count
        codes = ((torch.cat([top, mass, mean], 1).clamp(-_DEEPEST, 0) / -_DEEPEST).sqrt() * 255).round()
        places = classes.to(torch.int32).view(torch.int16)[:, ::2]  # the lower half: uint16
        return torch.cat([places.contiguous().view(torch.uint8), codes.to(torch.uint8)], 1)

    def decode(self, rows: Tensor) -> Tensor:
        places = rows[:, : 2 * TOP].contiguous().view(torch.uint16).to(torch.int64)
        values = rows[:, 2 * TOP :].float().square_().mul_(-_DEEPEST / 255**2)
        top, mass, mean = values.split((TOP, 1, 1), 1)
        others = torch.lerp(mean, mass, 1 / self.temperature)
        return others.expand(-1, self.shape[0]).scatter(1, places, top)


ENCODINGS: Mapping[str, type[Float16] | type[Int8] | type[TopTen]] = {one.name: one for one in (Float16, Int8, TopTen)}
