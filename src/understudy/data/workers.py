"""Decoding of records in `DataLoader` workers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import tee
from multiprocessing.context import BaseContext
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from understudy.data.augment import Augmentation, flipped, flips_crops
from understudy.data.crop import center_crop, random_crops
from understudy.data.decoding import DecodedImages, Decoding
from understudy.data.kept import Kept, keep
from understudy.data.source import RecordSource, Source, Unreadable

T = TypeVar("T")
Images = dict[str, Tensor]
"""Modality -> images."""

_CHUNK = 32  # images decoded by a worker at once

_Rows = Iterable[tuple[Tensor, Tensor | None]]


class _Chunk(NamedTuple):
    """The decoded images of some rows: their positions in the chunk and pixels, and (row, reason) of the others."""

    kept: list[int]
    inputs: Images
    failures: list[tuple[int, str]]


@cache
def _context() -> BaseContext:
    """Where workers start: copies of a process that has imported what they need, so that each takes milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def after_decoding(augmentation: Augmentation) -> Augmentation:
    """What is left to do with the crops of a `Decoder`."""
    flip = augmentation.flip and not flips_crops(augmentation)
    return replace(augmentation, crop_scale=1.0, crop_size=0, resize=0, flip=flip)


class Decoder:
    """Decodes and crops the records of a source, in this process or in workers, which live as long as it does.

    Args:
        source: a `RecordSource` whose pairs are records too.
        augmentation: how random crops are taken; what is not done here is `after_decoding`.
        workers: processes that decode; 0 decodes in this one.
    """

    def __init__(self, source: Source, augmentation: Augmentation, workers: int) -> None:
        modalities = {name: x for name, x in source.modalities.items() if isinstance(x, RecordSource)}
        assert isinstance(source, RecordSource)
        assert len(modalities) == 1 + len(source.pairs), "all modalities are records"
        self._decodings = {
            name: Decoding(x.records, x.shape[0], augmentation.resize or x.shape[1]) for name, x in modalities.items()
        }
        self._kept: dict[str, Kept] = {}
        self._source, self._modalities, self._augmentation = source, modalities, augmentation
        self._workers = workers
        self._loader: DataLoader[_Chunk] | None = None
        self._keys = _Keys()

    def keep(self, say: Callable[[str], None]) -> None:
        """Decode all images now and keep them, if they fit somewhere; see `kept.keep`. The batches are the same."""
        assert self._loader is None, "called before the first batch"
        self._kept = keep(self._decodings, self._modalities, say)

    def batches(self, batches: _Rows, skipped: dict[str, str]) -> Iterator[tuple[Tensor, Tensor, Images]]:
        """Decode and crop the records of each batch of rows with their view seeds; None for center crops.

        Yields the indices of the decoded rows, their view seeds and their images, (B, C, S, S) uint8; the others are
        added to `skipped`, record name -> reason. Batches are split into chunks, so that all workers share each batch
        and few images wait in memory. Only one iterator at a time can be in use.
        """
        batches, ahead = tee(batches)
        self._keys.batches, turn = ahead, self._keys.turn + 1
        self._keys.turn = turn
        if self._loader is None:
            self._loader = self._start()
        chunks = iter(self._loader)
        for rows, views in batches:
            kept = [torch.empty(0, dtype=torch.int64)]
            stacks = {name: [torch.empty(0, *x.shape, dtype=torch.uint8)] for name, x in self._modalities.items()}
            for start in range(0, len(rows), _CHUNK):
                assert self._keys.turn == turn, "another iterator was begun"
                chunk = next(chunks)
                for row, reason in chunk.failures:
                    skipped[self._source.records[row].name] = reason
                kept.append(start + torch.tensor(chunk.kept, dtype=torch.int64))
                for name, x in chunk.inputs.items():
                    stacks[name].append(x)
            index = torch.cat(kept)
            seeds = torch.zeros_like(index) if views is None else views[index]
            yield index, seeds, {name: torch.cat(x) for name, x in stacks.items()}

    def _start(self) -> DataLoader[_Chunk]:
        sizes = {name: (x.shape[1], x.resize_whole, x.center) for name, x in self._modalities.items()}
        return DataLoader(
            _Crops({**self._decodings, **self._kept}, sizes, self._augmentation),
            batch_size=None,
            sampler=self._keys,
            num_workers=self._workers,
            collate_fn=_unchanged,
            multiprocessing_context=_context() if self._workers else None,
            persistent_workers=self._workers > 0,
        )


def decode_batches(
    source: Source, batches: _Rows, augmentation: Augmentation, workers: int, skipped: dict[str, str]
) -> Iterator[tuple[Tensor, Tensor, Images]]:
    """The batches of a `Decoder` that is used once."""
    return Decoder(source, augmentation, workers).batches(batches, skipped)


class _Crops(Dataset[_Chunk]):
    """(rows, view seeds or None) -> the rows decoded and cropped, the same crop in all modalities."""

    def __init__(
        self,
        images: Mapping[str, DecodedImages],
        sizes: Mapping[str, tuple[int, bool, float]],
        augmentation: Augmentation,
    ) -> None:
        self.images, self.sizes, self.augmentation = images, sizes, augmentation

    def __getitem__(self, key: tuple[list[int], Tensor | None]) -> _Chunk:
        rows, seeds = key
        decoded: dict[str, list[Tensor]] = {name: [] for name in self.images}
        kept, failures = [], []
        for k, row in enumerate(rows):
            try:
                found = {
                    name: self._center(name, row) if seeds is None else images.pixels(row)
                    for name, images in self.images.items()
                }
            except Unreadable as reason:
                failures.append((row, str(reason)))
                continue
            kept.append(k)
            for name, pixels in found.items():
                decoded[name].append(pixels)
        if not kept:
            return _Chunk([], {}, failures)
        if seeds is None:
            return _Chunk(kept, {name: torch.stack(x) for name, x in decoded.items()}, failures)
        seeds = seeds[kept]
        flips = flipped(seeds).tolist() if flips_crops(self.augmentation) else [False] * len(kept)
        inputs = {name: self._random(name, x, seeds, flips) for name, x in decoded.items()}
        return _Chunk(kept, inputs, failures)

    def _random(self, name: str, images: list[Tensor], seeds: Tensor, flips: list[bool]) -> Tensor:
        size, whole, _ = self.sizes[name]
        resize = self.augmentation.resize or (size if whole else 0)
        return random_crops(images, seeds, size, self.augmentation.crop_scale, resize, flips)

    def _center(self, name: str, row: int) -> Tensor:
        size, whole, part = self.sizes[name]
        resize = self.augmentation.resize or (size if whole else 0)
        square = center_crop(self.images[name].image(row), size, resize, part)
        return torch.from_numpy(np.array(square)).view(size, size, -1).permute(2, 0, 1)


class _Keys(Sampler[tuple[list[int], Tensor | None]]):
    """The keys of `_Crops` for the batches that are asked for, chunk by chunk."""

    def __init__(self) -> None:
        self.batches: _Rows = ()
        self.turn = 0

    def __iter__(self) -> Iterator[tuple[list[int], Tensor | None]]:
        for rows, views in self.batches:
            for start in range(0, len(rows), _CHUNK):
                part = slice(start, start + _CHUNK)
                yield rows[part].tolist(), None if views is None else views[part]


def _unchanged(chunk: T) -> T:
    return chunk
