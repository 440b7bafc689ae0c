"""Frame sequences, e.g. speech features: each frame is a sample, whose input is a window of neighboring frames.

Only the frames are stored; windows are gathered on the fly, as storing them would take one copy per frame of context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from understudy.data.formats.index import SPLIT_NAMES, SplitName, position_ids
from understudy.data.source import ArraySource, Splits
from understudy.errors import UnderstudyError
from understudy.files import write_whole

FRAMES = "frames.safetensors"
"""The file that marks a folder as frame sequences."""


_INTEGERS = torch.int64, 1
_TENSORS = {"frames": (torch.float32, 2), "starts": _INTEGERS, "targets": _INTEGERS, "parts": _INTEGERS}
_Context = Annotated[int, Field(ge=0, le=1_000)]


class _Metadata(BaseModel):
    """What `frames.safetensors` holds besides tensors."""

    model_config = ConfigDict(extra="forbid", strict=True)
    classes: tuple[str, ...]
    before: _Context
    after: _Context
    skipped: dict[str, str] = {}


@dataclass(frozen=True)
class Windows:
    """A virtual tensor of windows: `windows[rows]` is (B, (before + 1 + after) * D).

    Windows that extend beyond their sequence repeat its first or last frame.
    """

    frames: Tensor  # (T, D), all sequences concatenated
    rows: Tensor  # (N,) int64, center frame of each sample
    first: Tensor  # (T,) int64, first frame of the sequence of each frame
    last: Tensor  # (T,) int64
    before: int  # context frames
    after: int

    @property
    def dtype(self) -> torch.dtype:
        return self.frames.dtype

    def dim(self) -> int:
        return 2

    def __getitem__(self, rows: Tensor) -> Tensor:
        center = self.rows[rows]
        index = center[:, None] + torch.arange(-self.before, self.after + 1, device=center.device)
        index = index.clamp(self.first[center][:, None], self.last[center][:, None])
        return self.frames[index].flatten(1)

    def to(self, device: torch.device) -> Windows:
        moved = {name: getattr(self, name).to(device) for name in ("frames", "rows", "first", "last")}
        return replace(self, **moved)

    def select(self, rows: Tensor) -> Windows:
        """The windows of some samples, which share the frames."""
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True)
class WindowSource(ArraySource):
    """Frames as samples; `inputs` are `Windows`, which are indexed like a tensor."""

    inputs: Any = field(kw_only=True)

    def sizes(self) -> Tensor | None:
        return None

    def _select(self, rows: Tensor) -> dict[str, object]:
        return {"inputs": self.inputs.select(rows)}


@dataclass(frozen=True)
class Sequences:
    """The contents of `frames.safetensors`, with `before` and `after` context frames on either side of a frame."""

    frames: Tensor  # (T, D) float32, all sequences concatenated
    starts: Tensor  # (U + 1,) int64, first frame of each sequence, then T
    targets: Tensor  # (T,) int64, class of each frame
    parts: Tensor  # (U,) int64, split of each sequence, as an index into `SPLIT_NAMES`
    classes: tuple[str, ...]
    before: int
    after: int
    skipped: Mapping[str, str] = field(default_factory=dict)  # record name -> reason

    def check(self, name: str) -> Sequences:
        """Itself; an error if the contents are inconsistent."""
        t = len(self.frames)
        if len(self.targets) != t:
            raise UnderstudyError(f"{name} has {t:,} frames but {len(self.targets):,} targets; align it again")
        lengths = self.starts.diff()
        if len(lengths) == 0 or int(self.starts[0]) != 0 or int(self.starts[-1]) != t or bool((lengths < 1).any()):
            raise UnderstudyError(f"the sequences of {name} do not add up to its {t:,} frames; prepare it again")
        if len(self.parts) != len(lengths) or not bool(((self.parts >= 0) & (self.parts < len(SPLIT_NAMES))).all()):
            raise UnderstudyError(f"{name} does not assign each sequence to a split; prepare it again")
        if not bool(((self.targets >= 0) & (self.targets < len(self.classes))).all()):
            raise UnderstudyError(f"{name} has targets outside of its {len(self.classes)} classes; prepare it again")
        return self

    def windows(self) -> Windows:
        lengths = self.starts.diff()
        first = self.starts[:-1].repeat_interleave(lengths)
        last = (self.starts[1:] - 1).repeat_interleave(lengths)
        return Windows(self.frames, torch.arange(len(self.frames)), first, last, self.before, self.after)

    def source(self, name: str, split: SplitName) -> WindowSource | None:
        """The frames of a split, or None if it is empty."""
        inside = (self.parts == SPLIT_NAMES.index(split)).repeat_interleave(self.starts.diff())
        rows = inside.nonzero().flatten()
        if len(rows) == 0:
            return None
        skipped = tuple(self.skipped.items()) if split == "train" else ()  # of all splits
        width = (self.before + 1 + self.after) * self.frames.shape[1]
        return WindowSource(
            name, self.classes, position_ids(len(rows), split), self.targets[rows], (width,),
            inputs=self.windows().select(rows), skipped=skipped, modality="frames",
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write a safetensors file atomically."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        metadata = {key: value for key, value in asdict(self).items() if key not in tensors}
        write_whole(path, save(tensors, {"understudy": json.dumps(metadata)}))


def read_sequences(path: Path) -> Sequences:
    """Read and check a `frames.safetensors` file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = _Metadata.model_validate_json((file.metadata() or {})["understudy"])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its metadata"
        raise UnderstudyError(f"{path} is damaged ({where}: {first['msg']}); prepare it again") from None
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise UnderstudyError(f"{path} is not a complete frames file ({error}); prepare it again") from None
    for name, (dtype, dim) in _TENSORS.items():
        if tensors[name].dtype != dtype or tensors[name].dim() != dim:
            raise UnderstudyError(f"{path} is damaged ({name} is of another type or shape); prepare it again")
    return Sequences(**tensors, **metadata.model_dump()).check(str(path))


def open_frames(folder: Path) -> Splits:
    """Open a folder with a `frames.safetensors` file, as written by `understudy speech prepare`."""
    sequences = read_sequences(folder / FRAMES)
    sources = {split: sequences.source(str(folder), split) for split in SPLIT_NAMES}
    splits = {split: source for split, source in sources.items() if source is not None}
    if "train" not in splits:
        raise UnderstudyError(f"{folder} has no training sequences; prepare it again")
    return Splits.from_dict(splits)
