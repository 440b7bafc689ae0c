"""Class folders, in a directory or inside a zip."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch

from understudy.data.decode import SUFFIXES
from understudy.data.gather import (
    Headed,
    Listed,
    Part,
    Records,
    check_classes,
    falls_to_test,
    pair_key,
    part_of,
    path_ids,
)
from understudy.data.records import FileRecord, MemberRecord, archive, printable
from understudy.errors import UnderstudyError

_LAYOUT = "put the images into one folder for each class, or such folders into train/ and test/"
_ZIP_METHODS = (0, 8, 12, 14)  # stored, deflated, bzip2, LZMA: what Python can read


@dataclass(frozen=True)
class Tree:
    """Relative paths, with "/" between their parts: the images, and all the folders, both sorted."""

    images: list[str]
    folders: list[str]

    def under(self, folder: str) -> Tree:
        """What lies in one folder, relative to it."""
        inside, cut = folder + "/", len(folder) + 1
        both = (self.images, self.folders)
        return Tree(*([path[cut:] for path in part if path.startswith(inside)] for part in both))

    @property
    def tops(self) -> list[str]:
        """The folders directly in it."""
        return [folder for folder in self.folders if "/" not in folder]

    @property
    def loose(self) -> list[str]:
        """The images directly in it."""
        return [path for path in self.images if "/" not in path]


def list_tree(path: Path, *, seed: int) -> Listed:
    """A directory or zip of class folders, of train/ and test/ with class folders, or of unlabelled images."""
    name = printable(os.fspath(path))
    tree, record = list_images(path)

    def records(prefix: str, part: Tree, classes: Sequence[str] | None) -> Records:
        paths = [prefix + path for path in part.images]
        index = None if classes is None else {c: i for i, c in enumerate(classes)}
        targets = None if index is None else torch.tensor([index[path.split("/", 1)[0]] for path in part.images])
        return Records([record(path) for path in paths], path_ids(name, paths), targets, list(map(pair_key, paths)))

    parts = _parts(name, tree)
    train = tree.under(parts["train"]) if parts else tree
    if train.loose and not train.tops and not parts:
        return Listed(name, (), {"train": records("", tree, None)})
    classes = _class_folders(name, train)
    check_classes(name, [printable(c) for c in classes])
    if not parts:
        whole = records("", tree, classes)
        assert whole.targets is not None
        test = falls_to_test(whole.ids, whole.targets, seed)
        split = {"train": whole.keep((~test).nonzero().flatten().tolist())}
        if test.any():
            split["test"] = whole.keep(test.nonzero().flatten().tolist())
    else:
        split = {"train": records(parts["train"] + "/", train, classes)}
        for part, folder in parts.items():
            inside = tree.under(folder)
            # A test part without class folders, as ImageNet's, has no labels to test with.
            if part == "train" or (inside.loose and not inside.tops):
                continue
            extra = sorted(set(_class_folders(name, inside, folder)) - set(classes))
            if extra:
                raise UnderstudyError(
                    f"{name} has classes in {folder}/ that {parts['train']}/ lacks: "
                    f"{', '.join(map(printable, extra))}; add them to {parts['train']}/ or take them out"
                )
            split[part] = records(folder + "/", inside, classes)
    return Listed(name, tuple(map(printable, classes)), split)


def list_images(path: Path) -> tuple[Tree, Callable[[str], Headed]]:
    """What lies in a directory, or in a zip, which is read member by member and never extracted, as records.

    A folder around everything, as archives have it, is stepped over: paths begin below it.
    """
    name = printable(os.fspath(path))
    packed = path.is_file()
    if packed:
        handle = archive(path)
        try:
            tree = _members(name, handle())
        except BadZipFile as fault:
            raise UnderstudyError(f"{name} is not a whole zip file ({fault}); copy it again") from fault
        record: Callable[[str], Headed] = partial(MemberRecord, handle)
    else:
        try:
            tree = walk(os.fspath(path))
        except OSError as fault:
            where = printable(os.fsdecode(fault.filename or path))
            raise UnderstudyError(f"{where} cannot be listed ({fault.strerror}); mend its permissions") from fault
        record = partial(FileRecord, os.fspath(path))
    if not tree.images:
        raise UnderstudyError(f"{name} holds no images; {_LAYOUT}")
    tree, top = _below_one_folder(tree, into_flat=packed)
    return tree, lambda relative: record(top + relative)


def walk(root: str) -> Tree:
    """Everything under a directory but hidden files. Links are followed, except those back to a folder that
    one is in already."""
    images: list[str] = []
    folders: list[str] = []

    def visit(folder: str, prefix: str, above: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in above:
            return
        if prefix:
            folders.append(prefix[:-1])
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    visit(entry.path, f"{prefix}{entry.name}/", above | {real})
                elif _is_image(entry.name):
                    images.append(prefix + entry.name)

    visit(root, "", frozenset())
    return Tree(sorted(images), sorted(folders))


def _members(name: str, file: ZipFile) -> Tree:
    images: list[str] = []
    folders: set[str] = set()
    for info in file.infolist():
        member = info.filename
        parts = member.rstrip("/").split("/")
        if ".." in re.split(r"[/\\]", member) or re.match(r"[/\\]|[A-Za-z]:", member):
            raise UnderstudyError(
                f"{name} holds {printable(member)!r}, a path that leads out of the archive; "
                "make the zip anew with relative paths below one folder"
            )
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        inner = parts if info.is_dir() else parts[:-1]
        folders.update("/".join(inner[: i + 1]) for i in range(len(inner)))
        if info.is_dir() or not _is_image(member):
            continue
        if info.flag_bits & 1 or info.compress_type not in _ZIP_METHODS:
            how = "encrypted" if info.flag_bits & 1 else f"compressed by method {info.compress_type}"
            raise UnderstudyError(f"{name} holds {printable(member)!r} {how}; make the zip anew without that")
        images.append(member)
    return Tree(sorted(images), sorted(folders))


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _below_one_folder(tree: Tree, into_flat: bool) -> tuple[Tree, str]:
    """Step over a single folder around everything, as archives have it; returns what was stepped over too.

    A folder around nothing but images is one class, or with `into_flat` a set without labels.
    """
    top = ""
    while len(tree.tops) == 1 and not tree.loose and part_of(tree.tops[0]) is None:
        inside = tree.under(tree.tops[0])
        if bool(inside.loose) == bool(inside.tops) or (inside.loose and (top or not into_flat)):
            break
        top += tree.tops[0] + "/"
        tree = inside
    return tree, top


def _parts(name: str, tree: Tree) -> dict[Part, str]:
    """Part -> its folder; empty where the folders at the top are the classes."""
    found: dict[Part, str] = {}
    for folder in tree.tops:
        part = part_of(folder)
        if part in found:
            raise UnderstudyError(f"{name} has both {found[part]}/ and {folder}/; keep one folder for the {part} part")
        if part is not None:
            found[part] = folder
    # A class may be called "train": then it stands among other classes.
    return found if "train" in found and (len(found) > 1 or len(tree.tops) == 1) else {}


def _class_folders(name: str, tree: Tree, folder: str = "") -> list[str]:
    where = f"{name}/{folder}" if folder else name
    if tree.loose and not tree.tops:
        raise UnderstudyError(
            f"{where} holds images but no class folders; {_LAYOUT}, or open {where} itself to use it unlabelled"
        )
    if tree.loose:
        raise UnderstudyError(
            f"{where} holds {len(tree.loose):,} images beside its class folders, "
            f"{printable(tree.loose[0])!r} first; move each into its class's folder, or away"
        )
    full = {path.split("/", 1)[0] for path in tree.images}
    for c in tree.tops:
        if c not in full:
            raise UnderstudyError(
                f"the class folder {printable(c)!r} in {where} holds no images; add some or remove the folder"
            )
    if not full:
        raise UnderstudyError(f"{where} holds no images; {_LAYOUT}")
    return sorted(full)
