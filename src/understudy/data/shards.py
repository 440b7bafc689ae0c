"""Tar shards in the WebDataset layout: members of one key make a sample, as 000017.jpg and 000017.cls.

A tar has no table of contents. It is read from header to header once; the places of the images and the labels are kept
in a file beside it, and every image is then read by its place, in any order and by any process.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from understudy.data.decode import SUFFIXES
from understudy.data.gather import ARRAY_BYTES, Listed, Part, Records, check_classes, part_of, path_ids
from understudy.data.records import Stored, printable
from understudy.data.table import LABEL_COLUMNS, divide, targets_of
from understudy.errors import UnderstudyError
from understudy.files import write_whole

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NAMES = "classes.txt"
_INDEX = 1  # of the form that indices are kept in
_LONGEST = 2**20  # bytes of a label; what is longer is none

Label = int | str


@dataclass(frozen=True, slots=True)
class ShardRecord(Stored):
    """An image in a tar: `size` bytes from `start`."""

    tar: str
    key: str
    start: int
    size: int

    @property
    def name(self) -> str:
        return printable(f"{os.path.basename(self.tar)}/{self.key}")

    def open(self) -> BinaryIO:
        with open(self.tar, "rb") as file:
            file.seek(self.start)
            found = file.read(self.size)
        if len(found) < self.size:
            raise OSError(f"{self.tar} ends before {self.key}")
        return io.BytesIO(found)


@dataclass(frozen=True)
class Index:
    """What is in a tar, sample by sample in the order of their first members.

    Attributes:
        keys: names of the samples.
        places: (start, size) in bytes of each one's image.
        labels: of each, class numbers or names, all of one kind; None where not one has any.
    """

    keys: list[str]
    places: list[tuple[int, int]]
    labels: list[Label] | None


def is_pattern(path: Path) -> bool:
    """Whether a path stands for numbered shards, as in shards-{000..127}.tar."""
    return _BRACES.search(os.fspath(path)) is not None and not path.exists()


def tars_in(folder: Path) -> list[Path]:
    """The tars in a folder."""
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def list_shards(path: Path, *, seed: int) -> Listed:
    """A tar, a folder of them, or numbered ones, in the WebDataset layout.

    A sample is the members of one key: the path up to the first dot of the file's name. It has one image (KEY.jpg,
    .png, .webp, ...) and its class, in KEY.cls or the field label of KEY.json: a number or a name. Names of numbers are
    the lines of classes.txt beside the shards. Shards whose names begin with train, val or test are these parts. Where
    no sample has a class, the set is unlabelled.

    Raises:
        UnderstudyError: shards that are missing, cut short or compressed; samples without an image or, where others
            have one, without a class, or with several; numbers in one shard and names in another.
    """
    name = printable(os.fspath(path))
    shards = tars_in(path) if path.is_dir() else _numbered(path)
    indices = {shard: index_of(shard) for shard in shards}
    full = {shard: index for shard, index in indices.items() if index.keys}
    if not full:
        raise UnderstudyError(f"{name} holds no samples; each is an image KEY.jpg with its class in KEY.cls")
    labelled = _all_labelled(name, full)
    parts: dict[Part, list[Path]] = {}
    for shard in full:
        parts.setdefault(part_of(re.split(r"[-_.]", shard.name)[0]) or "train", []).append(shard)
    if "train" not in parts:
        if len(parts) > 1:
            raise UnderstudyError(f"{name} has no shards to train with; name them train-*.tar")
        parts = {"train": list(full)}  # a lone part is what there is to train with, whatever it is called
    classes: tuple[str, ...] = ()
    targets: dict[Part, Any] = dict.fromkeys(parts)
    if labelled:
        labels = {part: [x for shard in own for x in full[shard].labels or ()] for part, own in parts.items()}
        classes, targets = targets_of(name, _class_names(shards[0].parent, labels["train"]), labels)
        check_classes(name, classes)
    found = {
        part: Records(
            [
                ShardRecord(os.fspath(shard), key, start, size)
                for shard in own
                for key, (start, size) in zip(full[shard].keys, full[shard].places, strict=True)
            ],
            path_ids(name, [f"{shard.name}/{key}" for shard in own for key in full[shard].keys]),
            targets[part],
            [key for shard in own for key in full[shard].keys],
        )
        for part, own in parts.items()
    }
    if labelled and len(found) == 1:
        found = divide(name, found["train"], None, seed)
    # Of a big set only a few images are read before they are used.
    small = sum(size for index in full.values() for _, size in index.places) <= ARRAY_BYTES
    return Listed(name, tuple(map(printable, classes)), found, small)


def _numbered(path: Path) -> list[Path]:
    """The shards that a path names: itself, or each number between its braces."""
    name, texts = printable(os.fspath(path)), [os.fspath(path)]
    while any(map(_BRACES.search, texts)):
        texts = [wider for text in texts for wider in _widened(text)]
    shards = [Path(text) for text in texts]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise UnderstudyError(
            f"{len(missing):,} of the {len(shards):,} shards of {name} are missing, {printable(missing[0])} first; "
            "put them there, or name those that are"
        )
    return shards


def _widened(text: str) -> Iterator[str]:
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    first, last = match.groups()
    if int(last) < int(first):
        raise UnderstudyError(f"{text} counts down; write the smaller number first, as in {{{last}..{first}}}")
    for number in range(int(first), int(last) + 1):
        yield f"{text[: match.start()]}{number:0{len(first)}d}{text[match.end() :]}"


def _all_labelled(name: str, indices: dict[Path, Index]) -> bool:
    """Whether the samples have classes, all of one kind; complains of shards that differ."""
    kinds: dict[type | None, Path] = {}
    for shard, index in indices.items():
        kinds.setdefault(None if index.labels is None else type(index.labels[0]), shard)
    if None in kinds and len(kinds) > 1:
        raise UnderstudyError(
            f"{name} has no classes in {kinds[None].name}, where other shards have them; give each sample a KEY.cls"
        )
    if len(kinds) > 1:
        raise UnderstudyError(
            f"{name} has class numbers in {kinds[int].name} and class names in {kinds[str].name}; "
            "write all shards with one or the other"
        )
    return None not in kinds


def _class_names(folder: Path, train: Sequence[Label]) -> tuple[str, ...] | None:
    """The lines of classes.txt, where classes are numbers and there is one."""
    path = folder / _NAMES
    if not train or isinstance(train[0], str) or not path.is_file():
        return None
    return tuple(path.read_text(encoding="utf-8").splitlines())


# --- the index of a tar -----------------------------------------------------------------------------------


def index_of(shard: Path) -> Index:
    """What is in a tar, from the file beside it if that is of this very tar, else read anew and kept there."""
    beside = shard.with_name(f".{shard.name}.index.json")
    stat = shard.stat()
    stamp = {"form": _INDEX, "bytes": stat.st_size, "modified": stat.st_mtime_ns}
    found = _kept(beside, stamp)
    if found is None:
        found = read_index(shard)
        with suppress(UnderstudyError):  # in a full or read-only folder none is kept
            write_whole(beside, json.dumps(stamp | asdict(found)))
    return found


def _kept(beside: Path, stamp: dict[str, int]) -> Index | None:
    """The index in a file; None where there is none of this stamp."""
    try:
        kept = json.loads(beside.read_bytes())
        if any(kept[key] != value for key, value in stamp.items()):
            return None
        places = [(int(start), int(size)) for start, size in kept["places"]]
        keys, labels = list(map(str, kept["keys"])), kept["labels"]
        rows = {len(keys), len(places), len(keys if labels is None else labels)}
        same = labels is None or len({type(label) for label in labels} | {int, str}) == 2
        return Index(keys, places, labels) if len(rows) == 1 and same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_index(shard: Path) -> Index:
    """Go through a tar from header to header."""
    name = printable(os.fspath(shard))
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, Label] = {}
    firsts: dict[str, str] = {}  # the first member of each sample
    try:
        with tarfile.open(shard, mode="r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                if not member.isreg() or member.issparse() or base.startswith("."):
                    continue
                stem, dot, suffix = base.partition(".")
                key, suffix = f"{folder}/{stem}".lstrip("/"), dot + suffix.lower()
                firsts.setdefault(key, member.name)
                if suffix in SUFFIXES:
                    if key in images:
                        raise UnderstudyError(f"{name} has two images of the sample {printable(key)!r}; keep one")
                    images[key] = member.offset_data, member.size
                elif (
                    suffix in (".cls", ".json")
                    and member.size <= _LONGEST
                    and not (suffix == ".json" and key in labels)
                ):
                    text = tar.extractfile(member)
                    assert text is not None
                    label = _label(f"{printable(member.name)!r} in {name}", suffix, text.read())
                    if label is not None:
                        labels[key] = label
    except (tarfile.TarError, EOFError) as fault:
        if _is_compressed(shard):
            raise UnderstudyError(
                f"{name} is compressed, so no image in it can be read by its place; unpack it to a plain .tar"
            ) from fault
        raise UnderstudyError(f"{name} is not a whole tar file ({fault}); copy or write it again") from fault
    for key, first in firsts.items():
        if key not in images:
            raise UnderstudyError(
                f"{name} has no image of the sample {printable(key)!r}, of which {printable(first)!r} is there; "
                "images end in .jpg, .png, .webp, ..."
            )
        if labels and key not in labels:
            raise UnderstudyError(
                f"{name} has no class of the sample {printable(key)!r}, where others have one; "
                "write it to KEY.cls, or to KEY.json as its label"
            )
    kinds = {type(label): key for key, label in labels.items()}
    if len(kinds) > 1:
        raise UnderstudyError(
            f"{name} has a class number for the sample {printable(kinds[int])!r} and a class name for "
            f"{printable(kinds[str])!r}; write one or the other"
        )
    return Index(list(firsts), [images[key] for key in firsts], [labels[key] for key in firsts] if labels else None)


def _label(where: str, suffix: str, text: bytes) -> Label | None:
    """The class in a member; None in a .json that has no such field."""
    try:
        said: Any = text.decode("utf-8").strip()
        if suffix == ".json":
            values = json.loads(said)
            fields = (*LABEL_COLUMNS, "cls")
            said = next((values[word] for word in fields if word in values), None) if isinstance(values, dict) else None
            if said is None:
                return None
        elif said.removeprefix("-").isdecimal():
            said = int(said)
    except ValueError as fault:
        raise UnderstudyError(f"{where} cannot be read as a class ({fault}); write a number or a name") from fault
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if isinstance(said, list):
        raise UnderstudyError(f"{where} has {len(said)} labels, where a sample is learnt as one class; write one")
    if isinstance(said, bool) or not isinstance(said, (int, str)) or said == "":
        raise UnderstudyError(f"{where} holds no class, but {said!r}; write a number or a name")
    return said


def _is_compressed(shard: Path) -> bool:
    with open(shard, "rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
