"""The images in a folder, a zip or a tar, by name or by content, without what other programs left there."""

from __future__ import annotations

import os
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from understudy.data.formats.decode import HEAD, LINK, RAW, RAW_SUFFIXES, SUFFIXES, looks_like_image
from understudy.data.formats.records import (
    BoundedFile,
    BytesRecord,
    FileRecord,
    UnreadableRecord,
    ZipRecord,
    escape_name,
    open_zip,
)
from understudy.data.formats.shards import ShardRecord, is_compressed
from understudy.data.source import Unreadable
from understudy.errors import UnderstudyError

LAYOUT = "put the images into one folder per class, or into train/ and test/ with such folders"
METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables of labels in the layout of Hugging Face's `ImageFolder`."""

# Folders of thumbnails, copies and deleted files. Hidden ones are left out too.
_FOREIGN = (
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx", "__pycache__"),
    *("$recycle.bin", "system volume information", "lost+found"),
)
_ZIP_METHODS = (0, 8, 12, 14)  # those Python can read: stored, deflate, bzip2, LZMA
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
_DEEPEST = 64  # folders within each other
_MOST_LINKS = 30_000  # folders listed through symbolic links, which can multiply them
_SHOWN = 5  # kinds of ignored files that are named


@dataclass(frozen=True)
class Tree:
    """Relative paths with "/" separators, in Unicode's composed form (NFC), all sorted.

    Attributes:
        images: all images.
        folders: all folders.
        tables: metadata.csv and metadata.jsonl files.
    """

    images: list[str]
    folders: list[str]
    tables: list[str] = field(default_factory=list)

    def below(self, folder: str) -> Tree:
        """The contents of a folder, relative to it."""
        prefix = folder + "/"
        each = (self.images, self.folders, self.tables)
        return Tree(*([path[len(prefix) :] for path in paths if path.startswith(prefix)] for paths in each))

    @cached_property
    def top_folders(self) -> list[str]:
        return [folder for folder in self.folders if "/" not in folder]

    @cached_property
    def top_images(self) -> list[str]:
        return [path for path in self.images if "/" not in path]

    @property
    def tables_on_top(self) -> bool:
        return any("/" not in path for path in self.tables)

    @cached_property
    def filled_folders(self) -> list[str]:
        """The top folders that hold images."""
        return sorted({path.split("/", 1)[0] for path in self.images if "/" in path})


@dataclass(frozen=True)
class Listing:
    """What a folder or archive holds.

    Attributes:
        tree: its images.
        open: makes the record of a file, which has not been read.
        notes: what was left out, a line.
        label_table: the first table of another kind, which may have the labels, or "".
    """

    tree: Tree
    open: Callable[[str], BytesRecord]
    notes: tuple[str, ...] = ()
    label_table: str = ""

    def below(self, folder: str) -> Listing:
        opener = self.open
        return replace(self, tree=self.tree.below(folder), open=lambda path: opener(f"{folder}/{path}"))


class _Entry(NamedTuple):
    """A file or folder: its path with "/" separators, whether it is a folder, and a file's record."""

    path: str
    is_folder: bool
    record: BytesRecord | None = None


def list_images(path: Path, *, advice: str = LAYOUT) -> Listing:
    """List the images in a folder, or in a zip or tar without extracting it.

    Args:
        advice: what to do where there are no images.

    Raises:
        UnderstudyError: there are none; or an archive is damaged, encrypted or has paths that lead out of it.
    """
    name = escape_name(os.fspath(path))
    if path.is_file():
        entries = _tar_entries(name, path) if path.suffix.lower() == ".tar" else _zip_entries(name, path)
    else:
        entries = _folder_entries(name, os.fspath(path))
    return _list(name, entries, advice)


def is_class_tar(path: Path) -> bool:
    """Whether a tar is an archive of folders with images, and not a shard of samples with KEY.cls or KEY.json."""
    if is_compressed(path):
        return False
    images, labels, folders = set[str](), set[str](), set[str]()
    for entry in _tar_entries(escape_name(os.fspath(path)), path):
        stem, suffix = os.path.splitext(entry.path)
        if suffix.lower() in SUFFIXES:
            images.add(stem)
            folders.add(os.path.dirname(stem))
        elif suffix.lower() in (".cls", ".json"):
            labels.add(stem)
        if stem in images and stem in labels:
            return False
    return len(folders - {""}) > 1


def _list(name: str, entries: Iterator[_Entry], advice: str) -> Listing:
    records: dict[str, BytesRecord] = {}
    folders: set[str] = set()
    tables: list[str] = []
    label_table = ""
    ignored: Counter[str] = Counter()
    foreign_part: dict[str, str | None] = {"": None}  # of each folder
    for entry in entries:
        path = entry.path if entry.path.isascii() else unicodedata.normalize("NFC", entry.path)
        folder, _, base = (path, "", "") if entry.is_folder else path.rpartition("/")
        if folder not in foreign_part:
            parts = folder.split("/")
            if len(parts) > _DEEPEST:
                raise UnderstudyError(f"{name} has over {_DEEPEST} folders within each other; give an inner folder")
            foreign_part[folder] = next(filter(_is_foreign, parts), None)
            if foreign_part[folder] is None:
                folders.update("/".join(parts[: i + 1]) for i in range(len(parts)))
        foreign = foreign_part[folder] or (base if _is_foreign(base) else None)
        if foreign is not None:
            ignored[_kind(foreign)] += 1
            continue
        if entry.record is None:
            continue
        suffix = os.path.splitext(base)[1].lower()
        if base.lower() in METADATA:
            tables.append(path)
        elif suffix in RAW_SUFFIXES:
            records[path] = UnreadableRecord(path, RAW)
            continue
        elif suffix not in SUFFIXES and not _has_image(entry.record):
            ignored[_kind(base)] += 1
            label_table = label_table or (path if suffix in (".csv", ".tsv", ".parquet") else "")
            continue
        if path in records:
            raise UnderstudyError(f"{name} has two files named {escape_name(path)!r}; remove or rename one")
        records[path] = entry.record
    images = sorted(records.keys() - set(tables))
    if not images:
        holds = f", only {_counted(ignored)}" if ignored else ""
        advice = "unpack the archives, or open one of them" if ignored.keys() & _ARCHIVES else advice
        raise UnderstudyError(f"{name} contains no images{holds}; {advice}")
    notes = (f"{name}: left out as not part of the data: {_counted(ignored)}",) if ignored else ()
    return Listing(Tree(images, sorted(folders), sorted(tables)), records.__getitem__, notes, label_table)


def _is_foreign(part: str) -> bool:
    return part.startswith(".") or part.lower() in _FOREIGN


def _kind(name: str) -> str:
    """What files of a name are called together."""
    if name.startswith("._"):
        return "._*"
    suffix = os.path.splitext(name)[1]
    return suffix.lower() if suffix and not _is_foreign(name) and suffix.lower() not in (".db", ".ini") else name


def _counted(ignored: Counter[str]) -> str:
    common = ignored.most_common(_SHOWN)
    listed = [f"{n:,} {escape_name(kind)}" for kind, n in common]
    others = ignored.total() - sum(n for _, n in common)
    return ", ".join([*listed, *([f"{others:,} others"] if others else [])])


def _has_image(record: BytesRecord) -> bool:
    """Whether a file of unknown suffix is an image by its first bytes."""
    try:
        return looks_like_image(record.first_bytes(HEAD))
    except Unreadable:
        return False


def _folder_entries(name: str, root: str) -> Iterator[_Entry]:
    """Everything in a folder; symbolic links are followed unless they lead to a parent."""

    @cache
    def resolve(path: str) -> str:
        return os.path.realpath(path)

    waiting = [("", resolve(root), frozenset[str](), False)]
    links = 0
    while waiting:
        prefix, folder, parents, linked = waiting.pop()
        if folder in parents:
            continue
        links += linked
        if links > _MOST_LINKS:
            raise UnderstudyError(
                f"{name} has more than {_MOST_LINKS:,} folders behind symbolic links, e.g. {escape_name(prefix)}; "
                "remove links that lead to each other"
            )
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            where = escape_name(os.path.join(root, prefix).rstrip("/"))
            raise UnderstudyError(f"{where} cannot be listed ({error.strerror}); check its permissions") from error
        for entry in entries:
            path = prefix + entry.name
            if not _is_folder(entry):
                yield _Entry(path, False, FileRecord(root, path))
                continue
            yield _Entry(path, True)
            if not _is_foreign(entry.name):
                linked_here = entry.is_symlink()
                real = resolve(entry.path) if linked_here else entry.path
                waiting.append((f"{path}/", real, parents | {folder}, linked or linked_here))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _zip_entries(name: str, path: Path) -> Iterator[_Entry]:
    archive = open_zip(path)
    try:
        members = archive().infolist()
    except MemoryError:
        raise
    except Exception as error:  # zipfile raises almost anything on corrupt data
        raise UnderstudyError(f"{name} is not a complete zip file ({error}); copy it again") from error
    for info in members:
        _check_inside(name, info.filename, "zip")
        member = info.filename.replace("\\", "/")  # as some programs on Windows write it
        unreadable = info.flag_bits & 1 or info.compress_type not in _ZIP_METHODS
        if unreadable and os.path.splitext(member)[1].lower() in SUFFIXES:
            how = "encrypted" if info.flag_bits & 1 else f"compressed with method {info.compress_type}"
            raise UnderstudyError(
                f"{name} contains {escape_name(member)!r} {how}; create the zip again, unencrypted and with deflate"
            )
        is_folder = member.endswith("/")
        yield _Entry(member.rstrip("/"), is_folder, None if is_folder else ZipRecord(archive, info.filename))


def _tar_entries(name: str, path: Path) -> Iterator[_Entry]:
    try:
        with BoundedFile(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                member = info.name.removeprefix("./")
                _check_inside(name, member, "tar")
                if info.isreg() and not info.issparse():
                    yield _Entry(member, False, ShardRecord(os.fspath(path), member, info.offset_data, info.size))
                elif member not in ("", "."):
                    yield _Entry(member, info.isdir(), None if info.isdir() else UnreadableRecord(member, LINK))
            file.seek(tar.offset)
            if len(file.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:  # of zeros, which tarfile does not insist on
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UnderstudyError(f"{name} is not a complete tar file ({error}); copy or create it again") from error


def _check_inside(name: str, member: str, kind: str) -> None:
    if ".." in re.split(r"[/\\]", member) or re.match(r"[/\\]|[A-Za-z]:", member):
        raise UnderstudyError(
            f"{name} contains {escape_name(member)!r}, a path outside of the archive; create the {kind} again with "
            "relative paths"
        )
