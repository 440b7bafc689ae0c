"""Folders and zips of images in the layout of torchvision's `ImageFolder`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch

from understudy.data.formats.decode import SUFFIXES
from understudy.data.formats.index import DatasetIndex, SplitIndex, SplitName, pair_key, parse_split, path_ids
from understudy.data.formats.labels import check_classes
from understudy.data.formats.records import FileRecord, ZipRecord, escape_name, open_zip
from understudy.data.source import Record
from understudy.errors import UnderstudyError

_LAYOUT = "put the images into one folder per class, or into train/ and test/ with such folders"
_ZIP_METHODS = (0, 8, 12, 14)  # those Python can read: stored, deflate, bzip2, LZMA


@dataclass(frozen=True)
class Tree:
    """Relative paths with "/" separators of all images and all folders, both sorted."""

    images: list[str]
    folders: list[str]

    def below(self, folder: str) -> Tree:
        """The contents of a folder, relative to it."""
        prefix = folder + "/"
        both = (self.images, self.folders)
        return Tree(*([path[len(prefix) :] for path in paths if path.startswith(prefix)] for paths in both))

    @property
    def top_folders(self) -> list[str]:
        return [folder for folder in self.folders if "/" not in folder]

    @property
    def top_images(self) -> list[str]:
        return [path for path in self.images if "/" not in path]


def index_folder(path: Path) -> DatasetIndex:
    """Index a folder or zip of class folders, of train/ and test/ with class folders, or of unlabeled images."""
    name = escape_name(os.fspath(path))
    tree, record = list_images(path)

    def index(prefix: str, part: Tree, classes: Sequence[str] | None) -> SplitIndex:
        paths = [prefix + path for path in part.images]
        by_name = None if classes is None else {c: i for i, c in enumerate(classes)}
        targets = None if by_name is None else torch.tensor([by_name[path.split("/", 1)[0]] for path in part.images])
        return SplitIndex([record(path) for path in paths], path_ids(name, paths), targets, list(map(pair_key, paths)))

    split_folders = _split_folders(name, tree)
    train = tree.below(split_folders["train"]) if split_folders else tree
    if train.top_images and not train.top_folders and not split_folders:
        return DatasetIndex(name, (), {"train": index("", tree, None)})
    classes = _class_folders(name, train)
    check_classes(name, [escape_name(c) for c in classes])
    if not split_folders:
        splits: dict[SplitName, SplitIndex] = {"train": index("", tree, classes)}
    else:
        train_folder = split_folders.pop("train")
        splits = {"train": index(train_folder + "/", train, classes)}
        for split, folder in split_folders.items():
            part = tree.below(folder)
            if part.top_images and not part.top_folders:
                continue  # an unlabeled test split, such as ImageNet's, is of no use
            extra = sorted(set(_class_folders(name, part, folder)) - set(classes))
            if extra:
                raise UnderstudyError(
                    f"{name} has classes in {folder}/ that {train_folder}/ lacks: "
                    f"{', '.join(map(escape_name, extra))}; add them to {train_folder}/ or remove them"
                )
            splits[split] = index(folder + "/", part, classes)
    return DatasetIndex(name, tuple(map(escape_name, classes)), splits)


def list_images(path: Path) -> tuple[Tree, Callable[[str], Record]]:
    """List the images in a folder, or in a zip without extracting it, and return how to make records of them.

    Paths are relative to the innermost folder that holds everything, as archives often have one.
    """
    name = escape_name(os.fspath(path))
    is_zip = path.is_file()
    if is_zip:
        archive = open_zip(path)
        try:
            tree = _zip_tree(name, archive())
        except BadZipFile as error:
            raise UnderstudyError(f"{name} is not a complete zip file ({error}); copy it again") from error
        record: Callable[[str], Record] = partial(ZipRecord, archive)
    else:
        try:
            tree = walk(os.fspath(path))
        except OSError as error:
            folder = escape_name(os.fsdecode(error.filename or path))
            raise UnderstudyError(f"{folder} cannot be listed ({error.strerror}); check its permissions") from error
        record = partial(FileRecord, os.fspath(path))
    if not tree.images:
        raise UnderstudyError(f"{name} contains no images; {_LAYOUT}")
    tree, top = _strip_top_folders(tree, flatten=is_zip)
    return tree, lambda relative: record(top + relative)


def walk(root: str) -> Tree:
    """Everything in a directory except hidden files; symbolic links are followed unless they lead to a parent."""
    images: list[str] = []
    folders: list[str] = []

    def visit(folder: str, prefix: str, parents: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in parents:
            return
        if prefix:
            folders.append(prefix[:-1])
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    visit(entry.path, f"{prefix}{entry.name}/", parents | {real})
                elif _is_image(entry.name):
                    images.append(prefix + entry.name)

    visit(root, "", frozenset())
    return Tree(sorted(images), sorted(folders))


def _zip_tree(name: str, file: ZipFile) -> Tree:
    images: list[str] = []
    folders: set[str] = set()
    for info in file.infolist():
        member = info.filename
        parts = member.rstrip("/").split("/")
        if ".." in re.split(r"[/\\]", member) or re.match(r"[/\\]|[A-Za-z]:", member):
            raise UnderstudyError(
                f"{name} contains {escape_name(member)!r}, a path outside of the archive; create the zip again with "
                "relative paths"
            )
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        parents = parts if info.is_dir() else parts[:-1]
        folders.update("/".join(parents[: i + 1]) for i in range(len(parents)))
        if info.is_dir() or not _is_image(member):
            continue
        if info.flag_bits & 1 or info.compress_type not in _ZIP_METHODS:
            how = "encrypted" if info.flag_bits & 1 else f"compressed with method {info.compress_type}"
            raise UnderstudyError(
                f"{name} contains {escape_name(member)!r} {how}; create the zip again, unencrypted and with deflate"
            )
        images.append(member)
    return Tree(sorted(images), sorted(folders))


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _strip_top_folders(tree: Tree, flatten: bool) -> tuple[Tree, str]:
    """Strip single folders around everything; returns their path too.

    A folder that directly holds all images is a class; with `flatten` it is stripped, leaving an unlabeled dataset.
    """
    top = ""
    while len(tree.top_folders) == 1 and not tree.top_images and parse_split(tree.top_folders[0]) is None:
        inner = tree.below(tree.top_folders[0])
        if bool(inner.top_images) == bool(inner.top_folders) or (inner.top_images and (top or not flatten)):
            break
        top += tree.top_folders[0] + "/"
        tree = inner
    return tree, top


def _split_folders(name: str, tree: Tree) -> dict[SplitName, str]:
    """Split -> folder; empty if the top folders are classes."""
    folders: dict[SplitName, str] = {}
    for folder in tree.top_folders:
        split = parse_split(folder)
        if split in folders:
            raise UnderstudyError(f"{name} has both {folders[split]}/ and {folder}/; keep one {split} folder")
        if split is not None:
            folders[split] = folder
    # a class may be called "train", among other classes
    return folders if "train" in folders and (len(folders) > 1 or len(tree.top_folders) == 1) else {}


def _class_folders(name: str, tree: Tree, folder: str = "") -> list[str]:
    where = f"{name}/{folder}" if folder else name
    if tree.top_images and not tree.top_folders:
        raise UnderstudyError(
            f"{where} contains images but no class folders; {_LAYOUT}, or open {where} itself as unlabeled data"
        )
    if tree.top_images:
        raise UnderstudyError(
            f"{where} contains {len(tree.top_images):,} images outside of its class folders, e.g. "
            f"{escape_name(tree.top_images[0])!r}; move them into class folders or remove them"
        )
    nonempty = {path.split("/", 1)[0] for path in tree.images}
    for c in tree.top_folders:
        if c not in nonempty:
            raise UnderstudyError(
                f"the class folder {escape_name(c)!r} in {where} contains no images; add some or remove the folder"
            )
    if not nonempty:
        raise UnderstudyError(f"{where} contains no images; {_LAYOUT}")
    return sorted(nonempty)
