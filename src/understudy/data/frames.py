"""Sequences of frames: each frame is a sample, seen amid its neighbours in a window that is cut when asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from understudy.data.gather import PARTS, as_splits, position_ids
from understudy.data.source import ArraySource, Source, Splits
from understudy.errors import UnderstudyError
from understudy.files import write_whole

FRAMES = "frames.safetensors"
"""The file that makes a folder a set of sequences."""


@dataclass(frozen=True)
class Windows:
    """What `windows[rows]` cuts: (B, (before + 1 + after) * D), each row's frame amid its neighbours.

    Beyond an end of its sequence a window repeats the frame at that end. Only frames are stored, and they lie on the
    device: a tensor of all windows would be 26 times as large where a window has 26 frames.

    Attributes:
        frames: (T, D), all sequences one after another.
        rows: (N,) int64, the frame that each sample is of.
        first, last: (T,) int64, where each frame's sequence begins, and its last frame.
        before, after: frames of a window on either side of its own.
    """

    frames: Tensor
    rows: Tensor
    first: Tensor
    last: Tensor
    before: int
    after: int

    @property
    def dtype(self) -> torch.dtype:
        return self.frames.dtype

    def dim(self) -> int:
        """Of what is cut: a batch of vectors."""
        return 2

    def __getitem__(self, rows: Tensor) -> Tensor:
        own = self.rows[rows]
        around = own[:, None] + torch.arange(-self.before, self.after + 1, device=own.device)
        around = around.clamp(self.first[own][:, None], self.last[own][:, None])
        return self.frames[around].flatten(1)

    def to(self, device: torch.device) -> Windows:
        moved = {name: getattr(self, name).to(device) for name in ("frames", "rows", "first", "last")}
        return replace(self, **moved)

    def chosen(self, rows: Tensor) -> Windows:
        """Those of some samples only, over the same frames."""
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True)
class WindowSource(ArraySource):
    """Frames as samples; `inputs` are `Windows`, which answer to row numbers as a tensor would."""

    inputs: Any = field(kw_only=True)

    def subset(self, rows: Tensor) -> WindowSource:
        part = Source.subset(self, rows)
        assert isinstance(part, WindowSource)
        return replace(part, inputs=self.inputs.chosen(rows))


@dataclass(frozen=True)
class Sequences:
    """A set of sequences, as `frames.safetensors` holds it.

    Attributes:
        frames: (T, D) float32, all sequences one after another.
        starts: (U + 1,) int64, where each sequence begins, and T.
        targets: (T,) int64, each frame's class.
        parts: (U,) int64, the index in `PARTS` of the part that each sequence belongs to.
        classes: names.
        before, after: frames of a window on either side of its own.
        set_aside: record name -> reason.
    """

    frames: Tensor
    starts: Tensor
    targets: Tensor
    parts: Tensor
    classes: tuple[str, ...]
    before: int
    after: int
    set_aside: Mapping[str, str] = field(default_factory=dict)

    def check(self, name: str) -> Sequences:
        """Complain of what does not belong together."""
        t = len(self.frames)
        if len(self.targets) != t:
            raise UnderstudyError(
                f"{name} has {t:,} frames and an alignment of {len(self.targets):,}; align the same recordings again"
            )
        lengths = self.starts.diff()
        if len(lengths) == 0 or int(self.starts[0]) != 0 or int(self.starts[-1]) != t or bool((lengths < 1).any()):
            raise UnderstudyError(f"{name} has sequences that do not add up to its {t:,} frames; prepare it again")
        if len(self.parts) != len(lengths) or not bool(((self.parts >= 0) & (self.parts < len(PARTS))).all()):
            raise UnderstudyError(f"{name} does not say of each sequence which part it belongs to; prepare it again")
        if not bool(((self.targets >= 0) & (self.targets < len(self.classes))).all()):
            raise UnderstudyError(f"{name} has frames of a class beyond its {len(self.classes)}; prepare it again")
        return self

    def windows(self) -> Windows:
        """A window for every frame."""
        lengths = self.starts.diff()
        first = self.starts[:-1].repeat_interleave(lengths)
        last = (self.starts[1:] - 1).repeat_interleave(lengths)
        return Windows(self.frames, torch.arange(len(self.frames)), first, last, self.before, self.after)

    def source(self, name: str, part: str) -> WindowSource | None:
        """The frames of one part's sequences, or None where it has none."""
        inside = (self.parts == PARTS.index(part)).repeat_interleave(self.starts.diff())
        rows = inside.nonzero().flatten()
        if len(rows) == 0:
            return None
        width = (self.before + 1 + self.after) * self.frames.shape[1]
        return WindowSource(
            name, self.classes, position_ids(len(rows), part), self.targets[rows], (width,),
            inputs=self.windows().chosen(rows), set_aside=tuple(self.set_aside.items()), modality="frames",
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {name: getattr(self, name).contiguous() for name in ("frames", "starts", "targets", "parts")}
        facts = {key: value for key, value in asdict(self).items() if key not in tensors}
        write_whole(path, save(tensors, {"understudy": json.dumps(facts)}))


def read_sequences(path: Path) -> Sequences:
    """A `frames.safetensors` file, checked."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["understudy"])
            tensors = {name: file.get_tensor(name) for name in ("frames", "starts", "targets", "parts")}
    except (SafetensorError, KeyError, OSError, ValueError) as fault:
        raise UnderstudyError(f"{path} is not a whole file of frames ({fault}); prepare it again") from None
    facts["classes"] = tuple(facts["classes"])
    return Sequences(**tensors, **facts).check(str(path))


def open_frames(folder: Path) -> Splits:
    """The parts of a folder that holds `frames.safetensors`."""
    held = read_sequences(folder / FRAMES)
    parts: dict[str, Source] = {}
    for part in PARTS:
        source = held.source(str(folder), part)
        if source is not None:
            parts[part] = source
    if "train" not in parts:
        raise UnderstudyError(f"{folder} has no sequence to learn from; prepare it again")
    return as_splits(parts)
