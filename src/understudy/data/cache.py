"""Decoded images, kept in memory where a source is read more than once."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch

from understudy.data.augment import NO_AUGMENTATION
from understudy.data.memory import SHARE, free_memory
from understudy.data.source import ArraySource, RecordSource, Source
from understudy.data.workers import decode_batches

_TOGETHER = 500  # images


def decoded(source: Source, workers: int = 0, skipped: dict[str, str] | None = None) -> Source:
    """The same samples with their images decoded as for evaluation, if that takes at most a quarter of the free memory.

    Args:
        source: returned as it is if it is in memory already, or too large.
        workers: processes that decode.
        skipped: record name -> reason, filled in for records that cannot be decoded, which are left out.
    """
    if not isinstance(source, RecordSource):
        return source
    modalities = source.modalities
    if len(source) * sum(prod(one.shape) for one in modalities.values()) > SHARE * free_memory():
        return source
    arrays = {name: torch.empty(len(source), *one.shape, dtype=torch.uint8) for name, one in modalities.items()}
    batches = torch.arange(len(source)).split(_TOGETHER)
    keys = ((rows, None) for rows in batches)
    found, count = [], 0
    for rows, (kept, _, images) in zip(
        batches, decode_batches(source, keys, NO_AUGMENTATION, workers, {} if skipped is None else skipped), strict=True
    ):
        for name, pixels in images.items():
            arrays[name][count : count + len(kept)] = pixels
        found.append(rows[kept])
        count += len(kept)
    rows = torch.cat(found)
    ids, targets = source.ids[rows], None if source.targets is None else source.targets[rows]
    first, *others = (
        ArraySource(
            one.name, one.classes, ids, targets, one.shape, inputs=arrays[name][:count], modality=name,
            skipped=one.skipped, notes=one.notes, names=[one.sample_name(row) for row in rows.tolist()],
        )
        for name, one in modalities.items()
    )  # fmt: skip
    return replace(first, pairs={one.modality: one for one in others})
