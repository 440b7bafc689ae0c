"""Folders, zips and tars of images in the layout of torchvision's or Hugging Face's `ImageFolder`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from understudy.data.formats.index import DatasetIndex, SplitIndex, SplitName, pair_key, parse_split, path_ids
from understudy.data.formats.labels import check_classes
from understudy.data.formats.listing import LAYOUT, Listing, Tree, list_images
from understudy.data.formats.metadata import index_metadata, read_labels
from understudy.data.formats.parts import part, part_folders
from understudy.data.formats.records import escape_name
from understudy.errors import UnderstudyError


def index_folder(path: Path) -> DatasetIndex:
    """Index a folder, zip or tar of class folders, of parts with class folders, or of unlabeled images.

    The parts are train/, test/ and val/, however they are written. Images that are listed with a label in metadata.csv
    or metadata.jsonl need no class folders.
    """
    name = escape_name(os.fspath(path))
    listing = strip_top_folders(list_images(path), flatten=path.is_file())
    if (labels := read_labels(name, listing)) is not None:
        return index_metadata(name, listing, labels)
    tree, notes = listing.tree, list(listing.notes)
    folders = part_folders(name, tree)
    if not folders and tree.top_images and not tree.top_folders:
        return DatasetIndex(name, (), {"train": _split(name, listing, "", tree, None)}, notes=tuple(notes))
    top, train = part(listing, folders["train"]) if folders else ("", tree)
    classes = _class_folders(name, train, top)
    if len(classes) == 1 and listing.label_table:
        raise UnderstudyError(
            f"{name} has only one folder of images, {escape_name(classes[0])}/; if their labels are in "
            f"{escape_name(listing.label_table)}, open that"
        )
    check_classes(name, [escape_name(c) for c in classes])
    whole = _split(name, listing, top, train, classes)
    splits: dict[SplitName, SplitIndex] = {"train": whole}
    for split, outer in folders.items():
        folder, images = part(listing, outer)
        if split == "train" or not images.images:
            continue
        if images.top_images and not images.top_folders:  # an unlabeled test split, such as ImageNet's
            notes.append(f"{name}: left out {escape_name(folder)}/, which has no class folders")
            continue
        extra = sorted(set(_class_folders(name, images, folder)) - set(classes))
        if extra:
            raise UnderstudyError(
                f"{name} has classes in {escape_name(folder)}/ that {escape_name(top)}/ lacks: "
                f"{', '.join(map(escape_name, extra))}; add them to {escape_name(top)}/ or remove them"
            )
        splits[split] = _split(name, listing, folder, images, classes)
    if folders:
        others = [escape_name(f) + "/" for f in tree.filled_folders if f not in folders.values()]
        if others or tree.top_images:
            loose = [f"{len(tree.top_images):,} images outside of the parts"] if tree.top_images else []
            notes.append(f"{name}: left out {', '.join([*others, *loose])}, in neither the training nor the test part")
    return DatasetIndex(name, tuple(map(escape_name, classes)), splits, notes=tuple(notes))


def strip_top_folders(listing: Listing, *, flatten: bool) -> Listing:
    """The innermost folder that holds everything, as archives often have one around it.

    A folder that directly holds all images is a class; with `flatten` it is stripped, leaving an unlabeled dataset.
    """
    stripped = False
    while True:
        tree = listing.tree
        top = tree.filled_folders
        if len(top) != 1 or tree.top_images or tree.tables_on_top or len(tree.top_folders) > 1 or parse_split(top[0]):
            return listing
        inner = tree.below(top[0])
        if bool(inner.top_images) == bool(inner.top_folders) or (inner.top_images and (stripped or not flatten)):
            return listing
        listing, stripped = listing.below(top[0]), True


def _split(name: str, listing: Listing, top: str, tree: Tree, classes: Sequence[str] | None) -> SplitIndex:
    """The images of a tree that is relative to the folder `top`."""
    paths = [f"{top}/{path}" if top else path for path in tree.images]
    by_name = None if classes is None else {c: i for i, c in enumerate(classes)}
    targets = None if by_name is None else torch.tensor([by_name[path.split("/", 1)[0]] for path in tree.images])
    return SplitIndex(
        [listing.open(path) for path in paths], path_ids(name, paths), targets, list(map(pair_key, paths))
    )


def _class_folders(name: str, tree: Tree, folder: str = "") -> list[str]:
    where = f"{name}/{escape_name(folder)}" if folder else name
    if tree.top_images and not tree.top_folders:
        raise UnderstudyError(
            f"{where} contains images but no class folders; {LAYOUT}, list them in a CSV with columns path and label, "
            f"or open {where} itself as unlabeled data"
        )
    if tree.top_images:
        raise UnderstudyError(
            f"{where} contains {len(tree.top_images):,} images outside of its class folders, e.g. "
            f"{escape_name(tree.top_images[0])!r}; move them into class folders or remove them"
        )
    for c in tree.top_folders:
        if c not in tree.filled_folders:
            raise UnderstudyError(
                f"the class folder {escape_name(c)!r} in {where} contains no images; add some or remove the folder"
            )
    if not tree.filled_folders:
        raise UnderstudyError(f"{where} contains no images; {LAYOUT}")
    return tree.filled_folders
