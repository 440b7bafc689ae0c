"""Decoding of records in `DataLoader` workers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import tee
from multiprocessing.context import BaseContext

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from understudy.data.augment import Augmentation, crop_and_resize
from understudy.data.source import RecordSource, Source, Unreadable

Images = dict[str, Tensor]
"""Modality -> images."""

_CHUNK = 32  # images decoded by a worker at once

_Key = tuple[int, int | None]
_Sample = tuple[int, Images | str]
_Rows = Iterable[tuple[Tensor, Tensor | None]]


@cache
def _context() -> BaseContext:
    """Where workers start: copies of a process that has imported what they need, so that each takes milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def decode_batches(
    source: Source, batches: _Rows, augmentation: Augmentation, workers: int, skipped: dict[str, str]
) -> Iterator[tuple[Tensor, Tensor, Images]]:
    """Decode and crop the records of each batch of rows with their view seeds; None for center crops.

    Yields the indices of the decoded rows, their view seeds and their images; the others are added to `skipped`, record
    name -> reason. Batches are split into chunks, so that all workers share each batch and few images wait in memory.
    """
    modalities = {name: x for name, x in source.modalities.items() if isinstance(x, RecordSource)}
    assert isinstance(source, RecordSource)
    assert len(modalities) == 1 + len(source.pairs), "all modalities are records"
    batches, ahead = tee(batches)
    chunks = iter(
        DataLoader(
            _Decoder(modalities, augmentation),
            batch_sampler=_chunks(ahead),
            num_workers=workers,
            collate_fn=_collate,
            multiprocessing_context=_context() if workers else None,
        )
    )
    for rows, views in batches:
        kept = [torch.empty(0, dtype=torch.int64)]
        stacks = {name: [torch.empty(0, *x.shape, dtype=torch.uint8)] for name, x in modalities.items()}
        for start in range(0, len(rows), _CHUNK):
            indices, images, failures = next(chunks)
            for row, reason in failures:
                skipped[source.records[row].name] = reason
            kept.append(start + torch.tensor(indices, dtype=torch.int64))
            for name, x in images.items():
                stacks[name].append(x)
        index = torch.cat(kept)
        seeds = torch.zeros_like(index) if views is None else views[index]
        yield index, seeds, {name: torch.cat(x) for name, x in stacks.items()}


class _Decoder(Dataset[_Sample]):
    """(row, view seed or None) -> (row, uint8 (C, S, S) by modality, with the same crop; or the reason for failure)."""

    def __init__(self, modalities: dict[str, RecordSource], augmentation: Augmentation) -> None:
        self.modalities = {name: (x.records, x.shape, x.resize_whole) for name, x in modalities.items()}
        self.augmentation = augmentation

    def __getitem__(self, key: _Key) -> _Sample:
        row, seed = key
        images: Images = {}
        try:
            for name, (records, (channels, side, _), resize_whole) in self.modalities.items():
                image = records[row].read().convert("L" if channels == 1 else "RGB")
                resize = self.augmentation.resize or (side if resize_whole else 0)
                image = crop_and_resize(image, side, seed, self.augmentation.crop_scale, resize)
                pixels = torch.from_numpy(np.array(image))
                images[name] = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
        except Unreadable as reason:
            return row, str(reason)
        return row, images


def _collate(samples: list[_Sample]) -> tuple[list[int], Images, list[tuple[int, str]]]:
    """Indices of the decoded samples, their images stacked by modality, and (row, reason) of the others."""
    decoded = [(k, images) for k, (_, images) in enumerate(samples) if isinstance(images, dict)]
    names = decoded[0][1] if decoded else ()
    stacks = {name: torch.stack([images[name] for _, images in decoded]) for name in names}
    return [k for k, _ in decoded], stacks, [(row, reason) for row, reason in samples if isinstance(reason, str)]


def _chunks(batches: _Rows) -> Iterator[list[_Key]]:
    """The keys of `_Decoder`, chunk by chunk."""
    for rows, views in batches:
        seeds: list[int | None] = [None] * len(rows) if views is None else views.tolist()
        keys: list[_Key] = list(zip(rows.tolist(), seeds, strict=True))
        yield from (keys[k : k + _CHUNK] for k in range(0, len(keys), _CHUNK))
