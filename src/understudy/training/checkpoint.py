"""Checkpoints: a safetensors file and its SHA-256. A damaged checkpoint is skipped in favor of the previous one."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from understudy.errors import UnderstudyWarning
from understudy.files import write_whole

KEEP = 2


def write_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors, and facts that JSON can hold, as a checkpoint, and delete all but the newest `KEEP`.

    The hash is written last: a checkpoint without one is incomplete and is ignored.
    """
    path = folder / f"step-{step:09d}.safetensors"
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"facts": json.dumps(facts)})
    digest = write_whole(path, data)
    write_whole(path.with_suffix(".sha256"), f"{digest}  {path.name}\n")
    for old in _paths(folder)[:-KEEP]:
        old.with_suffix(".sha256").unlink(missing_ok=True)
        old.unlink()


def read_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of the newest intact checkpoint, or None; warns of damaged ones and skips them."""
    for path in reversed(_paths(folder)):
        hash_file = path.with_suffix(".sha256")
        if not hash_file.exists():
            continue  # the run was killed while writing it
        data = path.read_bytes()
        if hash_file.read_bytes().split()[:1] != [hashlib.sha256(data).hexdigest().encode()]:
            message = f"checkpoint {path} is damaged (its SHA-256 differs); continuing from an earlier one"
            warnings.warn(message, UnderstudyWarning, stacklevel=2)
            continue
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["facts"])
        return load(data), facts
    return None


def _paths(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{9}", p.stem))
