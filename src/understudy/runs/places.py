"""Where the files are that a run or a collection names: found from another working directory, and after a move.

When a folder is made, its path is noted, and that of each file that its options name. A file is then looked for by its
name in the working directory; in the same place as seen from the folder, which may have moved together with it; and
where it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from understudy.config.options import Options
from understudy.config.places import with_files
from understudy.data import NAMED, default_root
from understudy.data.formats.shards import is_pattern
from understudy.errors import UnderstudyError

S = TypeVar("S", bound=Options)


class Places(BaseModel):
    """Absolute paths when a folder was made: its own, those of files by name, and that of the named data sets."""

    model_config = ConfigDict(frozen=True)

    folder: str = ""
    files: dict[str, str] = {}
    data_root: str = ""


def noted_places(options: Options, folder: Path) -> dict[str, Any]:
    """What the record of a folder keeps, as `Places`."""
    files: dict[str, str] = {}

    def note(option: str, name: str) -> str:
        if not is_data_set(option, name) and _exists(_absolute(name)):
            files[name] = _absolute(name)
        return name

    with_files(options, note)
    return {"folder": _absolute(folder), "files": files, "data_root": _absolute(default_root())}


def located(options: S, places: Mapping[str, Any], folder: Path, *, required: bool = False) -> S:
    """The options, with paths in place of the names of files that are not found by them here.

    Args:
        places: what was noted.
        folder: where it is now.
        required: whether all files must exist; else one that does not gets the path where it was.

    Raises:
        UnderstudyError: a required file does not exist.
    """
    files, was, uses_root = places.get("files", {}), places.get("folder", folder), False

    def find(option: str, name: str) -> str:
        nonlocal uses_root
        uses_root |= is_data_set(option, name) and not name.startswith("hf:")
        known = None if is_data_set(option, name) else files.get(name)
        if known is None:
            return name
        here, moved = _absolute(name), _moved(known, was, folder)
        found = next(filter(_exists, (moved, known) if os.path.isabs(name) else (here, moved, known)), None)
        if found is None and required:
            raise UnderstudyError(
                f"{name}, which {folder} needs, is not where it was, at {known}, nor in this folder; put it back, or "
                "run the command in a folder that has it"
            )
        return name if here == (found or known) else found or known

    options = with_files(options, find)
    if uses_root and getattr(options, "data_root", "") is None and (root := places.get("data_root")):
        found = next(filter(_exists, (_absolute(default_root()), _moved(root, was, folder), root)), None)
        if found is not None and found != _absolute(default_root()):
            return options.model_copy(update={"data_root": found})
    return options


def same_files(options: S, others: S) -> bool:
    """Whether options are the same, by whatever names they call their files, and wherever named data sets are."""

    def absolute(option: str, name: str) -> str:
        return name if is_data_set(option, name) or not _exists(_absolute(name)) else _absolute(name)

    first, second = (with_files(one, absolute) for one in (options, others))
    return first == second.model_copy(update={"data_root": getattr(first, "data_root", None)})


def is_data_set(option: str, name: str) -> bool:
    """Whether an option's value is the name of a data set, and no path."""
    return option in ("data", "transfer_set") and (name.startswith("hf:") or name.lower() in NAMED)


def _moved(known: str, was: str | Path, folder: Path) -> str:
    """Where a file is if it has moved along with a folder."""
    return os.path.normpath(os.path.join(_absolute(folder), os.path.relpath(known, was)))


def _exists(path: str) -> bool:
    return os.path.exists(path) or (is_pattern(Path(path)) and os.path.isdir(os.path.dirname(path)))


def _absolute(path: str | Path) -> str:
    return os.path.abspath(os.path.expanduser(path))
