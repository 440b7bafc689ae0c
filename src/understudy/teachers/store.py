"""A teacher whose answers lie on the disk.

A view is a pure function of (seed, view, id), so a store holds nothing but answers: view by view, sample by sample.

targets.json        what it holds, of which teachers and data, in which views
ids.npy             (N,) int64, the ids of the samples in the order of the rows
logits.bin, ...     (views, N, row bytes) uint8 for each signal, as `teachers.encoding` says
logits-basis.npz    of compact rows
sampled.npz         what some of the views look like, to tell later whether they still do
data.json.gz        what the data was made of
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from understudy.data.augment import Augmentation
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.signals import Batch, Shapes, Signals
from understudy.teachers.encoding import ENCODINGS, Compact, Encoding, Float16, Int8
from understudy.teachers.frozen import together

MANIFEST, IDS, SAMPLED = "targets.json", "ids.npy", "sampled.npz"
_SHARE = 0.25  # of a GPU's free memory that a store may take


class Stored(BaseModel):
    """One signal of one teacher.

    Attributes:
        member: which of the teachers; None for all of them together.
        name: "logits", "embedding" or the name of a tap.
        digests: BLAKE2b of each shard of the file; empty until all are there.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    member: int | None
    name: str
    encoding: Literal["float16", "int8", "compact"]
    shape: tuple[int, ...]
    digests: tuple[str, ...] = ()

    @property
    def row_bytes(self) -> int:
        return ENCODINGS[self.encoding].row_bytes(self.shape)

    @property
    def basis(self) -> str:
        """The file with the basis of compact rows."""
        return f"{self.file.removesuffix('.bin')}-basis.npz"

    def of(self, signals: Signals) -> Tensor:
        """The values of the signal, which the teachers were watched for."""
        own = signals if self.member is None else signals.members[self.member]
        found = {"logits": own.logits, "embedding": own.embedding}.get(self.name, own.features.get(self.name))
        assert found is not None, f"the teacher was watched for {self.name}"
        return found

    def coding(self, folder: Path) -> Encoding:
        """How its rows in a folder are to be read.

        Raises:
            UnderstudyError: their basis is damaged.
        """
        if self.encoding == "compact":
            return Compact.read(folder / self.basis)
        return Float16(self.shape) if self.encoding == "float16" else Int8(self.shape)


class Manifest(BaseModel):
    """What `targets.json` holds."""

    model_config = ConfigDict(extra="allow", frozen=True)

    format: Literal[1] = 1
    data: str
    samples: int
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    teachers: dict[str, str]
    """SHA-256 of each teacher's files."""
    mean: Literal["arithmetic", "geometric"]
    views: dict[str, Any]
    decoder: str
    batch: int
    shard: int
    """Batches of a shard; the last shard of a view has what is left."""
    signals: tuple[Stored, ...]
    unreadable: tuple[int, ...] = ()
    """Rows without answers, as their samples could not be decoded."""
    config: dict[str, Any] = {}
    finished: bool = False

    @property
    def known_views(self) -> Views:
        """The views that were labeled."""
        rest = {name: value for name, value in self.views.items() if name != "augmentation"}
        return Views(Augmentation(**self.views["augmentation"]), **rest)

    @property
    def view_count(self) -> int:
        """How many views were labeled."""
        return self.known_views.count or 1

    @property
    def members(self) -> int:
        """How many teachers are kept apart; 0 where they are kept together."""
        return 1 + max((-1 if one.member is None else one.member for one in self.signals), default=-1)

    @property
    def view_bytes(self) -> int:
        """Bytes of a view of one sample."""
        return sum(one.row_bytes for one in self.signals)


@dataclass
class Store:
    """The answers of teachers to counted views: `store(batch) -> Signals`, as a `Teacher` gives them.

    Args:
        path: a folder that `understudy label` wrote.
        manifest: what it holds.
        ids: (N,) int64.
        tables: file -> (views, N, row bytes) uint8, on the disk or on a GPU.
        codings: file -> how its rows are to be read.
    """

    path: Path
    manifest: Manifest
    ids: Tensor
    tables: Mapping[str, Tensor]
    codings: Mapping[str, Encoding]

    def __post_init__(self) -> None:
        self._order = self.ids.argsort()
        self._sorted = self.ids[self._order]
        self._watched: set[str] = {"logits"}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a finished store; its bytes are checked.

        Raises:
            UnderstudyError: there is none, it is unfinished, or it is damaged.
        """
        manifest = read_manifest(path)
        if not manifest.finished:
            raise UnderstudyError(f"{path} has not all answers yet; continue with: understudy resume {path}")
        try:
            ids = torch.from_numpy(np.load(path / IDS, allow_pickle=False))
            tables = {one.file: _mapped(path, one, manifest, len(ids)) for one in manifest.signals}
        except (OSError, ValueError) as fault:
            raise UnderstudyError(f"{path} is damaged ({fault}); restore it, or label the data again") from None
        _check_digests(path, manifest, tables)
        return cls(path, manifest, ids, tables, {one.file: one.coding(path) for one in manifest.signals})

    @property
    def views(self) -> Views:
        return self.manifest.known_views

    @property
    def shapes(self) -> list[Shapes]:
        """The shapes of each teacher's signals."""
        found = []
        for member in range(self.manifest.members) or (None,):
            own = {one.name: one.shape for one in self.manifest.signals if one.member == member}
            classes = own.get("logits", (0,))[0]
            taps = {name: shape for name, shape in own.items() if name not in ("logits", "embedding")}
            found.append(Shapes(classes, own.get("embedding", (0,))[0], taps))
        return found

    def to(self, device: torch.device) -> Store:
        """The same for batches on a device: a GPU takes all answers if they are at most a quarter of its memory."""
        if device.type != "cuda":
            return self
        free, _ = torch.cuda.mem_get_info(device)
        fits = sum(table.numel() for table in self.tables.values()) <= _SHARE * free
        tables = {name: table.to(device) for name, table in self.tables.items()} if fits else self.tables
        codings = {name: coding.to(device) for name, coding in self.codings.items()}
        return replace(self, ids=self.ids.to(device) if fits else self.ids, tables=tables, codings=codings)

    def watch(self, signals: Iterable[str]) -> None:
        """Set which signals to return besides the logits.

        Raises:
            UnderstudyError: the store does not hold one of them.
        """
        wanted, held = set(signals), {one.name for one in self.manifest.signals}
        if missing := sorted(wanted - held):
            flag = "--embedding" if missing[0] == "embedding" else f"--features {missing[0]}"
            raise UnderstudyError(
                f"{self.path} holds {', '.join(sorted(held))} of the teacher, and the method reads its {missing[0]}; "
                f"label the data again with {flag}"
            )
        self._watched = wanted | {"logits"}

    def rows(self, ids: Tensor) -> Tensor:
        """(B,) int64 rows of samples, which must be among those labeled."""
        return self._order[torch.searchsorted(self._sorted, ids)]

    def __call__(self, batch: Batch) -> Signals:
        device = self.ids.device
        index = batch.view_index if isinstance(batch.view_index, int) else batch.view_index.to(device)
        rows = self.rows(batch.ids.to(device))
        members: dict[int | None, dict[str, Tensor]] = {}
        for one in self.manifest.signals:
            if one.name in self._watched:
                found = self.tables[one.file][index, rows].to(batch.ids.device)
                members.setdefault(one.member, {})[one.name] = self.codings[one.file].decode(found)
        return self._together({member: _signals(values) for member, values in members.items()})

    def as_kept(self, answers: Signals) -> Signals:
        """Logits of the teachers themselves as they are read after they were kept."""
        members: dict[int | None, Signals] = {}
        for one in self.manifest.signals:
            if one.name == "logits":
                coding = self.codings[one.file]
                members[one.member] = Signals(coding.decode(coding.encode(one.of(answers))))
        return self._together(members)

    def _together(self, members: Mapping[int | None, Signals]) -> Signals:
        if None in members:
            return members[None]
        return together(tuple(members.values()), self.manifest.mean)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a store.

    Raises:
        UnderstudyError: there is none, or it is damaged.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise UnderstudyError(f"{path} holds no targets; understudy label makes them")
    try:
        return Manifest.model_validate(json.loads(file.read_bytes()))
    except (OSError, ValueError, ValidationError, RecursionError) as fault:
        raise UnderstudyError(f"{file} is damaged ({str(fault).splitlines()[0]}); label the data again") from None


def digest(data: Any) -> str:
    """BLAKE2b of 16 bytes, in hex."""
    return blake2b(data, digest_size=16).hexdigest()


class Shard(NamedTuple):
    """A part of the answers: the rows `first` to `last`, exclusive, of one view."""

    view: int
    first: int
    last: int


def shards_of(manifest: Manifest) -> list[Shard]:
    """The shards of a store, by number: view after view."""
    size = manifest.batch * manifest.shard
    bounds = [(start, min(start + size, manifest.samples)) for start in range(0, manifest.samples, size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:  # a last sample is in the batch before it
        bounds[-2:] = [(bounds[-2][0], manifest.samples)]
    return [Shard(view, *rows) for view in range(manifest.view_count) for rows in bounds]


def _mapped(path: Path, one: Stored, manifest: Manifest, samples: int) -> Tensor:
    shape = (manifest.view_count, samples, one.row_bytes)
    if samples != manifest.samples:
        raise ValueError(f"{IDS} has {samples:,} ids, not {manifest.samples:,}")
    return torch.from_numpy(np.memmap(path / one.file, np.uint8, "c", shape=shape))  # "c": never written


def _check_digests(path: Path, manifest: Manifest, tables: Mapping[str, Tensor]) -> None:
    shards = shards_of(manifest)
    if any(len(one.digests) != len(shards) for one in manifest.signals):
        raise UnderstudyError(f"{path} is damaged (digests are missing); label the data again")

    def damaged(place: tuple[Stored, int]) -> bool:
        one, number = place
        view, first, last = shards[number]
        return digest(tables[one.file][view, first:last].numpy()) != one.digests[number]

    places = [(one, number) for one in manifest.signals for number in range(len(shards))]
    with ThreadPoolExecutor(4) as pool:
        if bad := next(
            (place for place, is_bad in zip(places, pool.map(damaged, places), strict=True) if is_bad), None
        ):
            raise UnderstudyError(f"{path / bad[0].file} is damaged; restore it, or label the data again")


def _signals(values: Mapping[str, Tensor]) -> Signals:
    taps = {name: x for name, x in values.items() if name not in ("logits", "embedding")}
    first = next(iter(values.values()))
    return Signals(values.get("logits", first.new_empty(len(first), 0)), values.get("embedding"), taps)
