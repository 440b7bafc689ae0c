"""Checkpoints: one safetensors file with its SHA-256 beside it; a damaged newest one is passed over."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from understudy.errors import UnderstudyWarning
from understudy.files import sha256, write_whole

KEEP = 2


def write_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a checkpoint and drop all but the newest `KEEP`. The hash is written last: without it there is none."""
    path = folder / f"step-{step:09d}.safetensors"
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"facts": json.dumps(facts)})
    digest = write_whole(path, data)
    write_whole(path.with_suffix(".sha256"), f"{digest}  {path.name}\n")
    for old in _paths(folder)[:-KEEP]:
        old.with_suffix(".sha256").unlink(missing_ok=True)
        old.unlink()


def read_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of the newest whole checkpoint, or None; damaged ones are warned of and skipped."""
    for path in reversed(_paths(folder)):
        record = path.with_suffix(".sha256")
        if not record.exists():
            continue  # it was being written when the run was killed
        if record.read_text().split()[0] != sha256(path):
            warnings.warn(
                f"checkpoint {path} is damaged (its SHA-256 differs); the one before it is used",
                UnderstudyWarning,
                stacklevel=2,
            )
            continue
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["facts"])
        return load(data), facts
    return None


def _paths(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{9}", p.stem))
