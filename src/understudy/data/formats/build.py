"""Build sources from an index of records: arrays if the images are small and of one size, else records."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from understudy.data.formats.decoded import WORTH, Decoded, keep_decoded, key_of, load_decoded
from understudy.data.formats.index import DatasetIndex, SplitIndex, SplitName
from understudy.data.source import (
    ArraySource,
    ImageHeader,
    Record,
    RecordSource,
    Source,
    Splits,
    Unreadable,
    map_threads,
)
from understudy.errors import UnderstudyError

MAX_ARRAY_BYTES = 512 * 2**20
"""Images of one size that need at most this much memory are decoded up front."""
DEFAULT_SIZE = 224
MANY = 5_000
"""Images from which it is worth to look for decoded ones."""
_HEADERS = 64  # headers read per split if not all are
_TYPICAL_HEADERS = 500

Shape = tuple[int, int, int]
_Skipped = list[tuple[str, str]]


def build_splits(index: DatasetIndex, size: int | None) -> Splits:
    """Build the sources of all splits and modalities, all of the same kind, height and width.

    They are arrays, (N, C, H, W) uint8 with C = 1 if all images are gray, if all have the same size and take at most
    `MAX_ARRAY_BYTES`; square images are then resized to `size`, and kept on the disk if that took long. Otherwise they
    are records of shape (3, size, size), or (1, size, size) for gray paired modalities, by default 224. Unreadable
    samples are skipped in all modalities.
    """
    key = key_of(index, size) if index.scan and sum(map(len, index.splits.values())) >= MANY else ""
    if key and (known := load_decoded(key)) is not None:
        return Splits.from_dict(_arrays(index, known))
    started = time.monotonic()
    skipped: dict[SplitName, _Skipped] = {split: [] for split in index.splits}
    headers: dict[str, set[ImageHeader]] = {}
    splits: dict[SplitName, SplitIndex] = {}
    for split, records in index.splits.items():
        step = 1 if index.scan else max(1, len(records) // _HEADERS)
        found = {name: map_threads(_header, each[::step]) for name, each in records.modalities.items()}
        for name, each in found.items():
            headers.setdefault(name, set()).update(header for header in each if isinstance(header, ImageHeader))
        splits[split] = _readable(index, split, records, found.values(), skipped[split]) if step == 1 else records

    sizes = {(header.width, header.height) for each in headers.values() for header in each}
    shapes = _array_shapes(headers, sizes, sum(map(len, splits.values())), size)
    decoded = None if shapes is None else _decode_all(index, splits, shapes, sizes, skipped)
    if decoded is not None:
        if key and time.monotonic() - started >= WORTH:
            keep_decoded(key, decoded)
        return Splits.from_dict(_arrays(index, decoded))
    side = size or DEFAULT_SIZE
    gray = {name for name, each in headers.items() if name != "image" and all(header.gray for header in each)}
    sources: dict[SplitName, Source] = {}
    for split, kept in splits.items():
        shared = index.name, index.classes, kept.ids, kept.targets
        modalities = (
            RecordSource(*shared, (1 if name in gray else 3, side, side), records=records, modality=name)
            for name, records in kept.modalities.items()
        )
        sources[split] = _paired(modalities, skipped[split], index.notes)
    return Splits.from_dict(sources)


def typical_size(source: Source) -> tuple[int, int]:
    """(height, width) in pixels of the image of median area; of records, the headers of up to 500 are read."""
    if len(source.shape) != 3:
        raise UnderstudyError(f"{source.name} holds vectors, which have no size in pixels; give images")
    if not isinstance(source, RecordSource):
        return source.shape[1], source.shape[2]
    records = source.records[:: -(-len(source) // _TYPICAL_HEADERS)]
    headers = [header for header in map_threads(_header, records) if isinstance(header, ImageHeader)]
    if not headers:
        raise UnderstudyError(f"no image of {source.name} can be read; check its files")
    return sorted((h.width * h.height, h.height, h.width) for h in headers)[len(headers) // 2][1:]


def _header(record: Record) -> ImageHeader | Unreadable:
    try:
        return record.header()
    except Unreadable as error:
        return error


def _paired(modalities: Iterable[Source], skipped: _Skipped, notes: tuple[str, ...]) -> Source:
    """The image source, which comes first, with the other modalities as its pairs."""
    image, *others = (replace(source, skipped=tuple(skipped), notes=notes) for source in modalities)
    return replace(image, pairs={other.modality: other for other in others})


def _array_shapes(
    headers: Mapping[str, set[ImageHeader]], sizes: Set[tuple[int, int]], n: int, size: int | None
) -> dict[str, Shape] | None:
    """(C, H, W) of each modality if the images, of these widths and heights, can be held as arrays."""
    if len(sizes) != 1:
        return None
    width, height = next(iter(sizes))
    if size is not None and (width, height) != (size, size):
        if width != height:
            return None  # they would have to be cropped, which depends on the view
        width = height = size
    channels = {name: 1 if all(header.gray for header in each) else 3 for name, each in headers.items()}
    if n * sum(channels.values()) * height * width > MAX_ARRAY_BYTES:
        return None
    return {name: (count, height, width) for name, count in channels.items()}


def _decode_all(
    index: DatasetIndex,
    splits: Mapping[SplitName, SplitIndex],
    shapes: Mapping[str, Shape],
    sizes: Set[tuple[int, int]],
    skipped: Mapping[SplitName, _Skipped],
) -> dict[SplitName, Decoded] | None:
    """The images of all parts; None if they do not match their headers."""
    decoded: dict[SplitName, dict[str, tuple[Tensor, list[Unreadable | None]]]] = {}
    for split, split_index in splits.items():
        decoded[split] = {}
        for name, records in split_index.modalities.items():
            array = _decode(records, shapes[name], sizes)
            if array is None:
                return None
            decoded[split][name] = array
    parts: dict[SplitName, Decoded] = {}
    for split, modalities in decoded.items():
        errors = [each for _, each in modalities.values()]
        kept = _readable(index, split, splits[split], errors, skipped[split])
        readable = torch.tensor([not any(row) for row in zip(*errors, strict=True)])
        inputs = {name: x if bool(readable.all()) else x[readable] for name, (x, _) in modalities.items()}
        rows = torch.isin(index.splits[split].ids, kept.ids).nonzero().flatten()
        parts[split] = Decoded(inputs, rows, tuple(skipped[split]))
    return parts


def _arrays(index: DatasetIndex, decoded: Mapping[SplitName, Decoded]) -> dict[SplitName, Source]:
    """The sources of decoded images."""
    sources: dict[SplitName, Source] = {}
    for split, part in decoded.items():
        whole = index.splits[split]
        kept = whole if len(part.rows) == len(whole) else whole.subset(part.rows.tolist())
        arrays = (
            ArraySource(
                index.name, index.classes, kept.ids, kept.targets, tuple(x.shape[1:]), inputs=x, modality=name,
                names=[record.name for record in kept.modalities[name]],
            )
            for name, x in part.inputs.items()
        )  # fmt: skip
        sources[split] = _paired(arrays, list(part.skipped), index.notes)
    return sources


def _decode(
    records: Sequence[Record], shape: Shape, sizes: Set[tuple[int, int]]
) -> tuple[Tensor, list[Unreadable | None]] | None:
    """All images as (N, *shape) uint8 with the error of each; None if an image does not match its header."""
    channels, height, width = shape
    inputs = np.zeros((len(records), *shape), np.uint8)

    def fill(row: int) -> Unreadable | bool:
        try:
            image = records[row].read()
        except Unreadable as error:
            return error
        if image.size not in sizes or (channels == 1 and image.mode != "L"):
            return False
        image = image if channels == 1 else image.convert("RGB")
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))  # a copy if the size is the same
        inputs[row] = pixels.reshape(height, width, channels).transpose(2, 0, 1)
        return True

    outcomes = map_threads(fill, range(len(records)))
    if any(outcome is False for outcome in outcomes):
        return None
    return torch.from_numpy(inputs), [outcome if isinstance(outcome, Unreadable) else None for outcome in outcomes]


def _readable(
    index: DatasetIndex, split: SplitName, records: SplitIndex, outcomes: Iterable[Sequence[object]], skipped: _Skipped
) -> SplitIndex:
    """The records that are readable in all modalities; the others are added to `skipped`."""
    bad = {i: str(error) for each in outcomes for i, error in enumerate(each) if isinstance(error, Unreadable)}
    if not bad:
        return records
    skipped += [(records.records[i].name, reason) for i, reason in bad.items()]
    kept = records.subset([i for i in range(len(records)) if i not in bad])
    counts = ", ".join(f"{n} {reason}" for reason, n in Counter(reason for _, reason in skipped).most_common())
    if len(kept) == 0:
        raise UnderstudyError(f"no image in the {split} split of {index.name} can be read ({counts}); replace them")
    if split == "train" and kept.targets is not None and records.targets is not None:
        lost = set(records.targets.tolist()) - set(kept.targets.tolist())
        if lost:
            raise UnderstudyError(
                f"no training image of class {index.classes[min(lost)]!r} in {index.name} can be read ({counts} in all "
                "classes); replace its images or remove the class"
            )
    return kept
