"""Data sets of the Hugging Face hub, through `datasets` where that is installed."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from understudy.data.arrays import open_images
from understudy.data.gather import as_splits, part_of
from understudy.data.select import stratified_split
from understudy.data.source import Splits
from understudy.data.table import IMAGE_COLUMNS, LABEL_COLUMNS, column_of
from understudy.errors import UnderstudyError


def open_hub(data: str, *, download: bool, size: int | None, seed: int) -> Splits:
    """Open "hf:name" or "hf:name:configuration"; without `download`, only from the local cache."""
    try:
        hub = importlib.import_module("datasets")
    except ImportError as fault:
        raise UnderstudyError(
            f"{data} needs the package `datasets`, which is not installed; pip install 'understudy[hub]'"
        ) from fault
    name, _, configuration = data.removeprefix("hf:").partition(":")
    how = hub.DownloadConfig(local_files_only=not download)
    try:
        loaded = hub.load_dataset(name, configuration or None, download_config=how)
    except (OSError, ValueError, RuntimeError) as fault:
        why = (str(fault).splitlines() or [type(fault).__name__])[0].rstrip(".")
        mend = "check its name and the network" if download else "pass --download to fetch it"
        raise UnderstudyError(f"{data} cannot be opened ({why}); {mend}") from fault
    parts: dict[str, Any] = {part: d for word, d in loaded.items() if (part := part_of(word)) is not None}
    if "train" not in parts:
        raise UnderstudyError(f"{data} has the splits {', '.join(loaded)} but no train; choose another set")
    features = parts["train"].features
    columns = {column.lower(): column for column in features}
    image, label = (column_of(data, columns, known) for known in (IMAGE_COLUMNS, LABEL_COLUMNS))
    labelled = {part: (d, torch.as_tensor(list(d[label]))) for part, d in parts.items()}
    # On the hub a test part whose labels are kept secret has -1 for each.
    labelled = {p: found for p, found in labelled.items() if p == "train" or bool((found[1] >= 0).any())}
    splits = open_images(data, labelled, getattr(features[label], "names", None), size, key=image)
    if len(labelled) > 1:
        return splits
    kept, held = stratified_split(splits.train, 0.2, seed)
    return as_splits({"train": splits.train.subset(kept), "test": splits.train.subset(held)})
