"""The folder of a teacher store while it is made: its manifest, and the shards that are done.

shards/00000.bin    the rows of each signal in turn, a byte for each sample that has answers, and a digest; once all
                    are there, they become the files of the store
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.config.options import Options
from understudy.errors import UnderstudyError
from understudy.files import remove_files, write_whole
from understudy.runs.collection import RunCollection
from understudy.runs.folder import EvaluatedFolder
from understudy.runs.places import located
from understudy.runs.run import Run
from understudy.teachers.encoding import Encoding
from understudy.teachers.store import MANIFEST, Manifest, Stored, digest, read_manifest, shards_of

_DIGEST = 16  # bytes
Rows = NDArray[np.uint8]
S = TypeVar("S", bound=Options)


@dataclass(frozen=True)
class TargetsFolder(EvaluatedFolder):
    """A folder that `understudy label` writes."""

    @property
    def exists(self) -> bool:
        return (self.path / MANIFEST).is_file()

    @property
    def record(self) -> dict[str, Any]:
        return read_manifest(self.path).model_dump(exclude_unset=True) if self.exists else {}

    def note(self, **facts: Any) -> None:
        write_whole(self.path / MANIFEST, json.dumps(self.record | facts, indent=1) + "\n")

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.path)

    @property
    def without_page(self) -> list[str]:
        if not self.finished:
            return super().without_page
        data = self.manifest.data
        return [
            f"{self.path}: done; train students with: understudy distill {data} --targets {self.path} --student ..."
        ]

    def located(self, options: S) -> S:
        """Options of the verb, with the paths where its files are now."""
        return located(options, self.record.get("places", {}), self.path, required=True)

    def shard(self, number: int) -> Path:
        return self.path / "shards" / f"{number:05}.bin"

    def missing(self, count: int) -> list[int]:
        """The numbers of the shards that are not there, of so many."""
        return [number for number in range(count) if not self.shard(number).exists()]

    def write_shard(self, number: int, rows: Mapping[str, Rows], found: Rows) -> None:
        """Write a shard.

        Args:
            rows: file of each signal -> (M, row bytes), in the order of the manifest.
            found: (M,) 1 for samples that have answers, else 0.
        """
        data = b"".join(values.tobytes() for values in (*rows.values(), found))
        write_whole(self.shard(number), data + blake2b(data, digest_size=_DIGEST).digest())

    def read_shard(self, number: int, size: int, signals: Sequence[Stored]) -> tuple[dict[str, Rows], Rows]:
        """What `write_shard` wrote of so many samples.

        Raises:
            UnderstudyError: it is damaged.
        """
        data, widths = self.shard(number).read_bytes(), [one.row_bytes for one in signals]
        if len(data) != size * (sum(widths) + 1) + _DIGEST or digest(data[:-_DIGEST]) != data[-_DIGEST:].hex():
            raise UnderstudyError(f"{self.shard(number)} is damaged; delete it and continue")
        rows, place = dict[str, Rows](), 0
        for one, width in zip(signals, widths, strict=True):
            rows[one.file] = np.frombuffer(data, np.uint8, size * width, place).reshape(size, width)
            place += size * width
        return rows, np.frombuffer(data, np.uint8, size, place)

    def require(self, manifest: Manifest) -> None:
        """Check that it can be merged into the targets of a manifest.

        Raises:
            UnderstudyError: it is not of the same targets.
        """
        if not self.exists:
            raise UnderstudyError(f"{self.path} holds no targets; name the folders that understudy label --part wrote")
        check_same(manifest, self.manifest, self.path)

    def merge(self, other: TargetsFolder) -> None:
        """Take over the shards of another folder of the same targets that this one lacks.

        Raises:
            UnderstudyError: a shard of it is damaged.
        """
        manifest = self.manifest
        shards, recode = shards_of(manifest), self._recoding(other)
        for number in self.missing(len(shards)):
            if other.shard(number).exists():
                _, first, last = shards[number]
                rows, found = other.read_shard(number, last - first, manifest.signals)
                self.write_shard(number, {file: recode.get(file, _same)(x) for file, x in rows.items()}, found)

    def _recoding(self, other: TargetsFolder) -> dict[str, Callable[[Rows], Rows]]:
        """What brings rows of another folder to the basis of this one, by file, where machines fitted different ones.

        The first folder that is merged gives its basis to one that has none.
        """
        found = dict[str, Callable[[Rows], Rows]]()
        for one in self.manifest.signals:
            ours, theirs = self.path / one.basis, other.path / one.basis
            if one.encoding != "compact" or not theirs.exists():
                continue
            if not ours.exists():
                write_whole(ours, theirs.read_bytes())
            if ours.read_bytes() != theirs.read_bytes():
                found[one.file] = partial(_recoded, one.coding(other.path), one.coding(self.path))
        return found

    def join(self) -> None:
        """Make the files of the store from its shards, all of which must be there."""
        manifest = self.manifest
        digests: dict[str, list[str]] = {one.file: [] for one in manifest.signals}
        whole = {
            one.file: np.memmap(
                self.path / f".{one.file}.partial", np.uint8, "w+",
                shape=(manifest.view_count, manifest.samples, one.row_bytes),
            )
            for one in manifest.signals
        }  # fmt: skip
        shards, unreadable = shards_of(manifest), list[int]()
        for number, (view, first, last) in enumerate(shards):
            rows, found = self.read_shard(number, last - first, manifest.signals)
            for file, values in rows.items():
                whole[file][view, first:last] = values
                digests[file].append(digest(values.tobytes()))
            if view == 0:
                unreadable += (first + np.flatnonzero(found == 0)).tolist()
        for file, values in whole.items():
            values.flush()
            (self.path / f".{file}.partial").replace(self.path / file)
        signals = [one.model_copy(update={"digests": tuple(digests[one.file])}) for one in manifest.signals]
        self.note(signals=[one.model_dump() for one in signals], unreadable=unreadable, finished=True)
        remove_files([self.shard(number) for number in range(len(shards))], self.path)


def _same(rows: Rows) -> Rows:
    return rows


def _recoded(theirs: Encoding, ours: Encoding, rows: Rows) -> Rows:
    return ours.encode(theirs.decode(torch.from_numpy(rows.copy()))).numpy()


def check_same(known: Manifest, other: Manifest, where: Path) -> None:
    """Check that two manifests are of the same targets.

    Raises:
        UnderstudyError: they differ; by what.
    """

    def signals(one: Manifest) -> list[Stored]:
        return [stored.model_copy(update={"digests": ()}) for stored in one.signals]

    compared = {
        "other teachers": lambda one: (list(one.teachers.values()), one.mean),
        "other data": lambda one: (one.samples, one.shape, one.classes),
        "other views": lambda one: one.views,
        "other signals": signals,
        "another version of the image decoder": lambda one: one.decoder,
        "another batch size": lambda one: (one.batch, one.shard),
    }
    for what, value in compared.items():
        if value(known) != value(other):
            raise UnderstudyError(f"{where} is of {what}; choose another --out folder, or delete it")


Results = Run | RunCollection | TargetsFolder
"""What a verb leaves in a folder."""
