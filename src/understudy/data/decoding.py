"""Decoded images of records, at no more than the size that crops need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from understudy.data.formats.decode import halvings
from understudy.data.source import Record

_MARGIN = 2
"""Images are decoded at no less than so many times the size of the crops.

Halved to that, they are within a grey level of what full decoding gives (on the whole image, in the mean), and
random crops of a tenth of their area and more are not enlarged.
"""


class DecodedImages(Protocol):
    """Decoded images by row; asking for one raises `Unreadable`."""

    def __len__(self) -> int: ...
    def image(self, row: int) -> Image.Image: ...
    def pixels(self, row: int) -> Tensor:
        """(H, W, C) uint8."""
        ...


@dataclass(frozen=True)
class Decoding:
    """Images that are decoded each time.

    Their size depends on the size of the crops alone, never on a view, so that decoded images can be kept instead.
    """

    records: Sequence[Record]
    channels: int  # 1 or 3
    size: int  # pixels of the crops, or of the square that the whole image is resized to

    @property
    def least(self) -> int:
        """Pixels of the shorter side that are enough."""
        return _MARGIN * self.size

    def __len__(self) -> int:
        return len(self.records)

    def image(self, row: int) -> Image.Image:
        image, mode = self.records[row].read(self.least), "L" if self.channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        times = halvings(*image.size, self.least)  # of what is not a JPEG
        return image.reduce(2**times) if times else image

    def pixels(self, row: int) -> Tensor:
        image = self.image(row)
        return torch.from_numpy(np.array(image)).view(image.height, image.width, self.channels)
