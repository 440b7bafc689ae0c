"""How a teacher's answers lie in a file: rows of a fixed number of bytes, little-endian.

float16  the values themselves
int8     the largest magnitude as float16, then int8 values: value = largest * int8 / 127
compact  of logits, up to a constant: the 4 largest classes as uint16, an int8 for each of them, and 40 codes of 4 bits,
         the lower half of a byte first. With a basis that is kept once, logits = mean + (codes - 7.5) @ directions, and
         step * int8 is added to the 4 largest.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import ClassVar, Protocol, Self
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from understudy.errors import UnderstudyError

TOP, DIRECTIONS = 4, 40
_LARGEST = 65_504.0  # of float16
_STEP = 0.4  # of a standard deviation: 16 steps reach to 3 of them


class Encoding(Protocol):
    """Rows of bytes for values of one shape."""

    name: ClassVar[str]

    @staticmethod
    def row_bytes(shape: tuple[int, ...]) -> int: ...
    def to(self, device: torch.device) -> Encoding:
        """The same for tensors on a device."""
        ...

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
    >>> half.row_bytes((2,)), half.decode(half.encode(torch.tensor([[0.5, -2.0]])))
    (4, tensor([[ 0.5000, -2.0000]]))
    """

    name: ClassVar[str] = "float16"
    shape: tuple[int, ...]

    @staticmethod
    def row_bytes(shape: tuple[int, ...]) -> int:
        return 2 * prod(shape)

    def to(self, device: torch.device) -> Self:
        return self

    def encode(self, values: Tensor) -> Tensor:
        half = values.float().clamp(-_LARGEST, _LARGEST).half()
        return half.reshape(len(values), -1).contiguous().view(torch.uint8)

    def decode(self, rows: Tensor) -> Tensor:
        return rows.contiguous().view(torch.float16).float().view(-1, *self.shape)


@dataclass(frozen=True)
class Int8:
    """The values in 255 steps between the largest of a row and its negative.

    >>> eight = Int8((3,))
    >>> eight.row_bytes((3,)), eight.decode(eight.encode(torch.tensor([[127.0, -1.0, 0.4]])))
    (5, tensor([[127.,  -1.,   0.]]))
    """

    name: ClassVar[str] = "int8"
    shape: tuple[int, ...]

    @staticmethod
    def row_bytes(shape: tuple[int, ...]) -> int:
        return 2 + prod(shape)

    def to(self, device: torch.device) -> Self:
        return self

    def encode(self, values: Tensor) -> Tensor:
        flat = values.float().clamp(-_LARGEST, _LARGEST).flatten(1)
        largest = flat.abs().amax(1, keepdim=True).half()
        steps = (127 * flat / largest.float().clamp_min(1e-12)).round().clamp(-127, 127).to(torch.int8)
        return torch.cat([largest.contiguous().view(torch.uint8), steps.view(torch.uint8)], 1)

    def decode(self, rows: Tensor) -> Tensor:
        largest = rows[:, :2].flatten().clone().view(torch.float16).float()[:, None]  # rows of odd length
        return (largest * rows[:, 2:].contiguous().view(torch.int8) / 127).view(-1, *self.shape)


@dataclass(frozen=True)
class Compact:
    """Logits of 16 and more classes, up to a constant, in 32 bytes.

    The 4 largest are cut to the last of them, so that what is left varies in few directions, those of a principal
    component analysis of some answers; what was cut is kept beside it. Logits serve every temperature.

    Attributes:
        mean: (C,) of the logits that are cut, each row less its own mean.
        directions: (40, C) orthogonal, as long as a step of their codes.
        step: () of what is added to the 4 largest.

    >>> random = torch.Generator().manual_seed(0)
    >>> logits = torch.randn(500, 20, generator=random) @ torch.randn(20, 100, generator=random)
    >>> compact = Compact.fit(logits)
    >>> rows = compact.encode(logits)
    >>> distance = (compact.decode(rows).softmax(1) - logits.softmax(1)).abs().sum(1) / 2
    >>> rows.shape, bool(distance.mean() < 0.1)
    (torch.Size([500, 32]), True)
    """

    name: ClassVar[str] = "compact"
    mean: Tensor
    directions: Tensor
    step: Tensor

    @classmethod
    def fit(cls, logits: Tensor) -> Self:
        """For rows like these, (N, C) with C >= 16; equal rows give equal bits."""
        from sklearn.decomposition import PCA  # slow to import, and only labeling needs it

        whole, cut, top = _cut(logits.cpu().double())
        count = min(DIRECTIONS, *cut.shape)
        found = PCA(count, random_state=0).fit(cut.numpy())
        axes, mean = torch.from_numpy(found.components_), torch.from_numpy(found.mean_)
        directions = torch.zeros(DIRECTIONS, cut.shape[1])
        directions[:count] = axes * _STEP * (cut - mean).matmul(axes.T).std(0, correction=0)[:, None]
        missing = (whole - mean - (cut - mean) @ axes.T @ axes).gather(1, top)
        return cls(mean.float(), directions, (missing.abs().amax() / 100).clamp_min(1e-6).float())  # 27% are in reserve

    @classmethod
    def read(cls, path: Path) -> Self:
        """The basis that `to_bytes` made.

        Raises:
            UnderstudyError: it is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                return cls(*(torch.from_numpy(found[name]) for name in ("mean", "directions", "step")))
        except (OSError, ValueError, KeyError, BadZipFile) as fault:
            raise UnderstudyError(f"{path} is damaged ({fault}); restore it, or label the data again") from None

    def to_bytes(self) -> bytes:
        """A .npz file."""
        stream = io.BytesIO()
        np.savez(stream, mean=self.mean.numpy(), directions=self.directions.numpy(), step=self.step.numpy())
        return stream.getvalue()

    @staticmethod
    def row_bytes(shape: tuple[int, ...]) -> int:
        return 3 * TOP + DIRECTIONS // 2

    def to(self, device: torch.device) -> Self:
        return type(self)(self.mean.to(device), self.directions.to(device), self.step.to(device))

    def encode(self, values: Tensor) -> Tensor:
        whole, cut, top = _cut(values.float().clamp(-_LARGEST, _LARGEST))
        lengths = self.directions.square().sum(1).clamp_min(1e-12)
        codes = ((cut - self.mean) @ self.directions.T / lengths + 7.5).round().clamp(0, 15)
        missing = (whole - self._projected(codes)).gather(1, top)
        added = (missing / self.step).round().clamp(-127, 127).to(torch.int8)
        pairs = codes.to(torch.uint8)
        places = top.to(torch.int32).view(torch.int16)[:, ::2]  # the lower half: uint16
        return torch.cat([_bytes(places), _bytes(added), pairs[:, ::2] | pairs[:, 1::2] << 4], 1)

    def decode(self, rows: Tensor) -> Tensor:
        places = rows[:, : 2 * TOP].contiguous().view(torch.uint16).to(torch.int64)
        added = self.step * rows[:, 2 * TOP : 3 * TOP].contiguous().view(torch.int8)
        pairs = rows[:, 3 * TOP :]
        codes = torch.stack([pairs & 15, pairs >> 4], 2).flatten(1).float()
        return self._projected(codes).scatter_add(1, places, added)

    def _projected(self, codes: Tensor) -> Tensor:
        with torch.autocast(codes.device.type, enabled=False):
            return torch.addmm(self.mean, codes - 7.5, self.directions)


def _cut(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, C) logits, the same with the largest cut, both less the mean of what is cut, and (B, 4) the largest."""
    top, classes = logits.topk(TOP, 1)
    cut = logits.minimum(top[:, -1:])
    mean = cut.mean(1, keepdim=True)
    return logits - mean, cut - mean, classes


def _bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


ENCODINGS: Mapping[str, type[Encoding]] = {one.name: one for one in (Float16, Int8, Compact)}
