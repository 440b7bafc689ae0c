"""Datasets on the Hugging Face Hub, through the optional package `datasets`."""

from __future__ import annotations

import importlib
from typing import Any

from understudy.data.formats.arrays import open_images
from understudy.data.formats.index import SplitName, parse_split
from understudy.data.formats.labels import IMAGE_COLUMNS, LABEL_COLUMNS, encode_labels, find_column
from understudy.data.select import hold_out_test
from understudy.data.source import Splits
from understudy.errors import UnderstudyError


def open_hub(data: str, *, download: bool, size: int | None, seed: int) -> Splits:
    """Open "hf:name" or "hf:name:configuration"; without `download`, from the local cache only."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UnderstudyError(f"{data} needs the package datasets; pip install 'understudy[hub]'") from error
    name, _, configuration = data.removeprefix("hf:").partition(":")
    config = datasets.DownloadConfig(local_files_only=not download)
    try:
        loaded = datasets.load_dataset(name, configuration or None, download_config=config)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        remedy = "check its name and the network" if download else "pass --download to download it"
        raise UnderstudyError(f"{data} cannot be opened ({reason}); {remedy}") from error
    parts: dict[SplitName, Any] = {split: d for key, d in loaded.items() if (split := parse_split(key)) is not None}
    if "train" not in parts:
        raise UnderstudyError(f"{data} has splits {', '.join(loaded)} but no train split; choose another dataset")
    features = parts["train"].features
    image, label = (find_column(data, features, candidates) for candidates in (IMAGE_COLUMNS, LABEL_COLUMNS))
    labels = {split: list(d[label]) for split, d in parts.items()}
    # test splits with withheld labels have -1 throughout
    labels = {split: y for split, y in labels.items() if split == "train" or set(map(str, y)) != {"-1"}}
    names = getattr(features[label], "names", None)
    classes, targets = encode_labels(data, None if names is None else tuple(names), labels)
    labeled = {split: (parts[split], y) for split, y in targets.items()}
    splits = open_images(data, labeled, classes, size, key=image)
    return splits if len(labeled) > 1 else hold_out_test(splits.train, seed)
