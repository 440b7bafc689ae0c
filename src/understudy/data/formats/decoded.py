"""Decoded images kept on the disk, so that a set of files that takes long to decode is decoded once.

$UNDERSTUDY_CACHE, or understudy/ in the user's cache folder, has a safetensors file for each set: the images of each
part and modality, and which of its records they are. A set is known by the names, sizes and times of its files; what
has not been used for longest goes. An empty $UNDERSTUDY_CACHE turns it off.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from understudy.data.formats.index import DatasetIndex, SplitName
from understudy.data.source import map_threads
from understudy.errors import UnderstudyError
from understudy.files import write_whole

WORTH = 3.0
"""Seconds of decoding from which images are kept."""
MOST_BYTES = 4 * 2**30
_VERSION = 1
_UNFINISHED = 86_400  # seconds after which nobody writes to a file any more


@dataclass(frozen=True)
class Decoded:
    """The images of one part.

    Attributes:
        inputs: modality -> (N, C, H, W) uint8.
        rows: (N,) int64: which records of the part they are.
        skipped: record name and reason of each of the others.
    """

    inputs: Mapping[str, Tensor]
    rows: Tensor
    skipped: Sequence[tuple[str, str]]


def key_of(index: DatasetIndex, size: int | None) -> str:
    """What a set of files is known by: their names, sizes and times, in their order, and how they are decoded."""
    state = blake2b(f"{_VERSION} {PIL.__version__} {size}".encode(), digest_size=16)
    for split, part in index.splits.items():
        for name, records in part.modalities.items():
            stamps = torch.tensor(map_threads(lambda record: record.stamp(), records), dtype=torch.int64)
            state.update(f"\0{split}\0{name}\0".encode())
            state.update(stamps.numpy().tobytes())
            state.update("\0".join(record.name for record in records).encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def load_decoded(key: str) -> dict[SplitName, Decoded] | None:
    """The images that are kept of a set, by part; None if there are none."""
    folder = cache_folder("decoded")
    if folder is None:
        return None
    path = folder / f"{key}.safetensors"
    with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
        with safe_open(path, "pt") as file:
            parts: dict[SplitName, Any] = json.loads(file.metadata()["parts"])
            found = {
                part: Decoded(
                    {name: file.get_tensor(f"{part}/{name}") for name in about["modalities"]},
                    file.get_tensor(f"{part}/rows"),
                    [(str(name), str(reason)) for name, reason in about["skipped"]],
                )
                for part, about in parts.items()
            }
        os.utime(path)  # it was used
        return found
    return None


def keep_decoded(key: str, parts: Mapping[SplitName, Decoded]) -> None:
    """Keep the images of a set; where nothing can be written, nothing is kept."""
    folder = cache_folder("decoded")
    if folder is None:
        return
    tensors = {f"{part}/{name}": x for part, one in parts.items() for name, x in one.inputs.items()}
    tensors |= {f"{part}/rows": one.rows for part, one in parts.items()}
    about = {
        part: {"modalities": list(one.inputs), "skipped": [list(pair) for pair in one.skipped]}
        for part, one in parts.items()
    }
    with suppress(UnderstudyError):
        write_whole(folder / f"{key}.safetensors", save(tensors, {"parts": json.dumps(about)}))
    forget(folder, "*.safetensors", MOST_BYTES)


def forget(folder: Path, pattern: str, most: int) -> None:
    """Remove what has not been used for longest, where all takes more than `most` bytes, and what was not finished."""
    with suppress(OSError):
        for path in folder.glob(".*.partial"):
            if path.stat().st_mtime < time.time() - _UNFINISHED:
                path.unlink(missing_ok=True)
        files = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in files:
            total += path.stat().st_size
            if total > most:
                path.unlink(missing_ok=True)


def cache_folder(kind: str) -> Path | None:
    """Where things of a kind are kept; None if nothing is to be kept."""
    named = os.environ.get("UNDERSTUDY_CACHE")
    if named is not None:
        return Path(named).expanduser() / kind if named else None
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "understudy" / kind
