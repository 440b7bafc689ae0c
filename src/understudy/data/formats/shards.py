"""Tar shards in the WebDataset format: files with the same key form a sample, e.g. 000017.jpg and 000017.cls.

A tar has no table of contents. Each shard is scanned once; the positions of its images and its labels are cached in a
file next to it, and images are then read by position, in any order and from any process.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from understudy.data.formats.build import MAX_ARRAY_BYTES
from understudy.data.formats.decode import SUFFIXES
from understudy.data.formats.index import DatasetIndex, SplitIndex, SplitName, files_by_split, path_ids
from understudy.data.formats.labels import LABEL_COLUMNS, encode_labels
from understudy.data.formats.records import BoundedFile, BytesRecord, escape_name, file_stamp
from understudy.data.source import Stamp
from understudy.errors import UnderstudyError
from understudy.files import write_whole

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_MAX_SHARDS = 100_000
_CLASS_NAMES = "classes.txt"
_INDEX_VERSION = 1
_MAX_LABEL_BYTES = 2**20

Label = int | str


@dataclass(frozen=True, slots=True)
class ShardRecord(BytesRecord):
    """An image in a tar: `size` bytes from `start`."""

    tar: str
    key: str
    start: int
    size: int

    @property
    def path(self) -> str:
        return f"{os.path.basename(self.tar)}/{self.key}"

    @property
    def name(self) -> str:
        return escape_name(self.path)

    @property
    def nbytes(self) -> int:
        return self.size

    def open(self) -> BinaryIO:
        with open(self.tar, "rb") as file:
            file.seek(self.start)
            data = file.read(self.size)
        if len(data) < self.size:
            raise OSError(f"{self.tar} ends before {self.key}")
        return io.BytesIO(data)

    def stamp(self) -> Stamp:
        return file_stamp(self.tar, self.size)


@dataclass(frozen=True)
class ShardIndex:
    """Contents of a tar, with samples in the order of their first files."""

    keys: list[str]
    places: list[tuple[int, int]]  # (start, size) of the images, in bytes
    labels: list[Label] | None


def is_pattern(path: Path) -> bool:
    """Whether a path stands for a range of shards, e.g. shards-{000..127}.tar."""
    return _RANGE.search(os.fspath(path)) is not None and not path.exists()


def tar_files(folder: Path) -> list[Path]:
    """The tars in a folder."""
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith(".") and path.is_file())


def index_shards(path: Path) -> DatasetIndex:
    """Index a tar, a folder of tars, or a range of them, in the WebDataset format.

    The key of a sample is its path up to the first dot of the file name. A sample has one image (KEY.jpg, .png, .webp,
    ...) and one class, in KEY.cls or the field label of KEY.json: an index or a name. Indices are named by the lines of
    classes.txt next to the shards. The split of a shard is given by its name, e.g. train-000.tar. Either all samples
    have a class, or none.
    """
    name = escape_name(os.fspath(path))
    shards = tar_files(path) if path.is_dir() else _expand_range(path)
    indices = {shard: shard_index(shard) for shard in shards}
    nonempty = {shard: index for shard, index in indices.items() if index.keys}
    if not nonempty:
        raise UnderstudyError(f"{name} contains no samples; add images as KEY.jpg with their classes as KEY.cls")
    labeled = _check_labels(name, nonempty)
    files = files_by_split(nonempty)
    if "train" not in files:
        if len(files) > 1:
            raise UnderstudyError(f"{name} has no training shards; name them train-*.tar")
        files = {"train": list(nonempty)}  # a single split is the training data, whatever its name
    classes: tuple[str, ...] = ()
    targets: Mapping[SplitName, Tensor | None] = dict.fromkeys(files)
    if labeled:
        labels = {split: [y for shard in paths for y in nonempty[shard].labels or ()] for split, paths in files.items()}
        classes, targets = encode_labels(name, _class_names(shards[0].parent, labels["train"]), labels)
    splits: dict[SplitName, SplitIndex] = {}
    for split, paths in files.items():
        records = [
            ShardRecord(os.fspath(shard), key, start, size)
            for shard in paths
            for key, (start, size) in zip(nonempty[shard].keys, nonempty[shard].places, strict=True)
        ]
        ids = path_ids(name, [record.path for record in records])
        splits[split] = SplitIndex(records, ids, targets[split], [record.key for record in records])
    small = sum(size for index in nonempty.values() for _, size in index.places) <= MAX_ARRAY_BYTES
    return DatasetIndex(name, tuple(map(escape_name, classes)), splits, scan=small)


def _expand_range(path: Path) -> list[Path]:
    """The shards that a path stands for: itself, or one per number in its ranges."""
    name = escape_name(os.fspath(path))
    count = prod(max(int(last) - int(first) + 1, 1) for first, last in _RANGE.findall(os.fspath(path)))
    if count > _MAX_SHARDS:
        raise UnderstudyError(f"{name} stands for {count:,} shards, more than {_MAX_SHARDS:,}; change the range")
    shards = [Path(text) for text in _expand(os.fspath(path))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise UnderstudyError(
            f"{len(missing):,} of the {len(shards):,} shards of {name} are missing, e.g. {escape_name(missing[0])}; "
            "add them or change the range"
        )
    return shards


def _expand(text: str) -> list[str]:
    match = _RANGE.search(text)
    if match is None:
        return [text]
    first, last = match.groups()
    if int(last) < int(first):
        raise UnderstudyError(f"{text} counts down; write the smaller number first: {{{last}..{first}}}")
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [path for n in numbers for path in _expand(text[: match.start()] + n + text[match.end() :])]


def _check_labels(name: str, indices: Mapping[Path, ShardIndex]) -> bool:
    """Whether the shards are labeled; raises UnderstudyError if they differ."""
    kinds: dict[type | None, Path] = {}
    for shard, index in indices.items():
        kinds.setdefault(None if index.labels is None else type(index.labels[0]), shard)
    if None in kinds and len(kinds) > 1:
        raise UnderstudyError(f"{name} has no classes in {kinds[None].name}, unlike in other shards; add KEY.cls")
    if len(kinds) > 1:
        raise UnderstudyError(
            f"{name} has class indices in {kinds[int].name} and class names in {kinds[str].name}; use one or the other"
        )
    return None not in kinds


def _class_names(folder: Path, labels: Sequence[Label]) -> tuple[str, ...] | None:
    """The lines of classes.txt, if it exists and labels are indices."""
    path = folder / _CLASS_NAMES
    if not labels or isinstance(labels[0], str) or not path.is_file():
        return None
    name = escape_name(os.fspath(path))
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UnderstudyError(f"{name} is not a readable UTF-8 text ({error}); write one class per line") from error
    while names and not names[-1]:
        names.pop()
    if "" in names or len(set(names)) < len(names):
        raise UnderstudyError(f"{name} has a blank line or names a class twice; write one class per line")
    return tuple(names) or None


def shard_index(shard: Path) -> ShardIndex:
    """The index of a tar, from its cache file or by scanning the tar if that is missing or outdated."""
    cache = shard.with_name(f".{shard.name}.index.json")
    stat = shard.stat()
    stamp = {"form": _INDEX_VERSION, "bytes": stat.st_size, "modified": stat.st_mtime_ns}
    index = _cached_index(cache, stamp)
    if index is None:
        index = scan_shard(shard)
        with suppress(UnderstudyError):  # not cached if the folder is full or read-only
            write_whole(cache, json.dumps(stamp | asdict(index)))
    return index


def _cached_index(cache: Path, stamp: Mapping[str, int]) -> ShardIndex | None:
    """The index in a cache file; None if there is no valid one with this stamp."""
    try:
        if not cache.is_file() or cache.stat().st_size > stamp["bytes"]:  # a sample takes more bytes in the tar
            return None
        values = json.loads(cache.read_bytes())
        if any(values[key] != value for key, value in stamp.items()):
            return None
        keys, places, labels = values["keys"], [tuple(place) for place in values["places"]], values["labels"]
        kinds = {type(label) for label in labels or ()}
        valid = (
            all(type(key) is str for key in keys)
            and len(set(keys)) == len(keys) == len(places)
            and all(type(start) is int and type(size) is int for start, size in places)
            and all(start >= 0 and 0 <= size <= stamp["bytes"] - start for start, size in places)
            and (labels is None or (len(labels) == len(keys) and kinds in ({int}, {str})))
        )
        return ShardIndex(keys, places, labels) if valid else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def scan_shard(shard: Path) -> ShardIndex:
    """Index a tar by reading its headers and labels."""
    name = escape_name(os.fspath(shard))
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, Label] = {}
    first_files: dict[str, str] = {}
    try:
        with BoundedFile(shard) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                if not member.isreg() or member.issparse() or base.startswith("."):
                    continue
                stem, dot, suffix = base.partition(".")
                key, suffix = f"{folder}/{stem}".lstrip("/"), dot + suffix.lower()
                first_files.setdefault(key, member.name)
                if suffix in SUFFIXES:
                    if key in images:
                        raise UnderstudyError(f"{name} has two images for sample {escape_name(key)!r}; keep one")
                    images[key] = member.offset_data, member.size
                elif (
                    suffix in (".cls", ".json")
                    and member.size <= _MAX_LABEL_BYTES
                    and not (suffix == ".json" and key in labels)
                ):
                    file = tar.extractfile(member)
                    assert file is not None
                    label = _parse_label(f"{escape_name(member.name)!r} in {name}", suffix, file.read())
                    if label is not None:
                        labels[key] = label
    except (tarfile.TarError, EOFError) as error:
        if is_compressed(shard):
            raise UnderstudyError(
                f"{name} is compressed, so its images cannot be read by position; decompress it to a plain .tar"
            ) from error
        raise UnderstudyError(f"{name} is not a complete tar file ({error}); copy or create it again") from error
    for key, first in first_files.items():
        if key not in images:
            raise UnderstudyError(
                f"{name} has no image for sample {escape_name(key)!r}, only {escape_name(first)!r}; add one as .jpg, "
                ".png, .webp, ..."
            )
        if labels and key not in labels:
            raise UnderstudyError(
                f"{name} has no class for sample {escape_name(key)!r}, unlike for others; add it as KEY.cls, or as "
                "label in KEY.json"
            )
    kinds = {type(label): key for key, label in labels.items()}
    if len(kinds) > 1:
        raise UnderstudyError(
            f"{name} has a class index for sample {escape_name(kinds[int])!r} and a class name for "
            f"{escape_name(kinds[str])!r}; use one or the other"
        )
    keys = list(first_files)
    return ShardIndex(keys, [images[key] for key in keys], [labels[key] for key in keys] if labels else None)


def _parse_label(where: str, suffix: str, data: bytes) -> Label | None:
    """The class in a .cls or .json file; None if a .json has no label."""
    try:
        label: Any = data.decode("utf-8").strip()
        if suffix == ".json":
            values = json.loads(label)
            fields = (*LABEL_COLUMNS, "cls")
            label = next((values[f] for f in fields if f in values), None) if isinstance(values, dict) else None
            if label is None:
                return None
        elif label.removeprefix("-").isdecimal():
            label = int(label)
    except (ValueError, RecursionError) as error:
        raise UnderstudyError(f"{where} is not a valid class ({error}); write an index or a name") from error
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if isinstance(label, list):
        raise UnderstudyError(f"{where} has {len(label)} labels, but each sample has one class; keep one")
    if isinstance(label, bool) or not isinstance(label, (int, str)) or label == "":
        raise UnderstudyError(f"{where} has {label!r} instead of a class; write an index or a name")
    return label


def is_compressed(shard: Path) -> bool:
    """Whether a tar is compressed, so that nothing in it has a position."""
    with open(shard, "rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
