"""Which of a folder's subfolders are its parts (train/, test/, ...), however they are named, and which its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from understudy.data.formats.index import SplitName, parse_split
from understudy.data.formats.listing import Listing, Tree
from understudy.data.formats.records import escape_name
from understudy.errors import UnderstudyError

_SYNONYMS: Mapping[str, SplitName] = {"trn": "train", "tst": "test", "development": "validation"}
_HELD_OUT = ("eval", "evaluation", "holdout", "heldout")  # the test part, or beside one the validation part
_FILLERS = (
    *("set", "data", "dataset", "split", "part", "folder", "subset", "image", "images", "img", "imgs", "photo"),
    *("photos", "picture", "pictures", "sample", "samples", "example", "examples", "file", "files"),
)


def part_folders(name: str, tree: Tree) -> dict[SplitName, str]:
    """Split -> top folder; empty if the top folders are classes.

    Raises:
        UnderstudyError: two folders for one part, or folders that may be either.

    >>> part_folders("pets", Tree(["seg_train/cat/1.jpg", "seg_test/cat/1.jpg"], ["seg_test", "seg_train"]))
    {'test': 'seg_test', 'train': 'seg_train'}
    """
    guesses = _guesses([folder for folder in tree.top_folders if folder in tree.filled_folders or parse_split(folder)])
    parts: dict[SplitName, str] = {}
    for folder, split in sorted(guesses.items(), key=lambda guess: guess[1] in _HELD_OUT):
        if split in _HELD_OUT:
            split = "validation" if "test" in parts else "test"
        if split in parts:
            raise UnderstudyError(f"{name} has both {parts[split]}/ and {folder}/; keep one {split} folder")
        parts[split] = folder
    # a class may be called "train", among other classes
    if "train" in parts and (len(parts) > 1 or (len(tree.filled_folders) == 1 and parse_split(parts["train"]))):
        return parts
    _check_not_parts(name, tree, parts)
    return {}


def part(listing: Listing, folder: str) -> tuple[str, Tree]:
    """The contents of a part, and the path of the folder that they are relative to.

    Single folders within it that are called like the part, or "images", are passed over.
    """
    tree = listing.tree.below(folder)
    while not tree.top_images and len(tree.top_folders) == 1:
        inner = tree.top_folders[0]
        words = _words(inner)
        fills = bool(words) and all(word in _FILLERS for word in words)
        if not (fills or _alias(inner) or inner == folder.rpartition("/")[2]):
            break
        folder, tree = f"{folder}/{inner}", tree.below(inner)
    return folder, tree


def _guesses(folders: list[str]) -> dict[str, str]:
    """Folder -> split or one of `_HELD_OUT`, by the words that the folders do not share."""
    words = {folder: _words(folder) for folder in folders}
    shared = set.intersection(*(set(each) for each in words.values())) if len(words) > 1 else set[str]()
    found = {folder: _alias(folder, shared) for folder in folders}
    return {folder: split for folder, split in found.items() if split is not None}


def _alias(folder: str, shared: set[str] | None = None) -> str | None:
    """The split that a folder's name stands for, less fillers and the words that it shares with others."""
    words = [word for word in _words(folder) if word not in _FILLERS and word not in (shared or ())]
    word = "".join(words)
    stems = [word, *(word.removesuffix(filler) for filler in _FILLERS if len(word) > len(filler))]
    for stem in stems:
        if stem in _HELD_OUT:
            return stem
        if split := _SYNONYMS.get(stem) or parse_split(stem):
            return split
    return None


def _words(name: str) -> list[str]:
    """The words of a name in lower case.

    >>> _words("Test Set"), _words("trainImages"), _words("val2017")
    (['test', 'set'], ['train', 'images'], ['val'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+", name)]


def _check_not_parts(name: str, tree: Tree, parts: Mapping[SplitName, str]) -> None:
    """Raise UnderstudyError for top folders that would be classes, but look like parts."""
    if len(parts) > 1 and len(parts) == len(tree.filled_folders):
        listed = " and ".join(f"{folder}/" for folder in sorted(parts.values()))
        raise UnderstudyError(f"{name} has {listed} but no training part; name one of them train/")
    inner: dict[str, set[str]] = {folder: set() for folder in tree.filled_folders}
    for path in tree.images:
        top, *rest = path.split("/", 2)
        if len(rest) == 2:
            inner[top].add(rest[0])
        elif rest:
            inner[top].add("")  # an image among the subfolders
    several = [folder for folder, folders in inner.items() if len(folders) > 1 and "" not in folders]
    few = len(several) == len(tree.filled_folders) <= 3
    for first in several if few else sorted(set(several) & set(parts.values())):
        for second in several:
            alike = sorted(inner[first] & inner[second])
            if first != second and len(alike) > 1:
                a, b, one, other = map(escape_name, (*alike[:2], *sorted((first, second))))
                raise UnderstudyError(
                    f"{name} has {a}/ and {b}/ in both {one}/ and {other}/, which seem to be parts and not classes; "
                    "name them train/ and test/, or if they are the classes, move their images out of the subfolders"
                )
