"""Paths as users write them; files that are written whole or not at all, and read back with care."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError

_LONGEST_NAME, _LONGEST_PATH = 255, 4_095  # bytes, on common file systems


def path_of(text: str | os.PathLike[str], what: str) -> Path:
    """A path as a user wrote it, with ~ and ~user expanded. The file need not exist.

    Args:
        what: it is the path of, for the message.

    Raises:
        UnderstudyError: no path can be meant: it is empty, of another type, too long, has control characters, or is in
            the home of a user who does not exist.

    >>> path_of("runs/a", "the run folder").as_posix()
    'runs/a'
    """
    if not isinstance(text, (str, os.PathLike)) or not isinstance(name := os.fspath(text), str):
        raise UnderstudyError(f"{what} must be a path, not {type(text).__name__}; give it as text")
    if not name.strip():
        raise UnderstudyError(f"{what} is empty; name a file or folder")
    if fault := text_fault(name):
        raise UnderstudyError(f"{what} {name!r} {fault}")
    expanded = os.path.expanduser(name)  # not Path's, which takes ./~a for ~a
    if expanded == name and name.startswith("~"):
        user = name[1:].partition("/")[0]
        raise UnderstudyError(f"{what} is {name!r}, but there is no user {user!r}; write ./{name}")
    path = Path(expanded)
    return path.absolute() if str(path).startswith("~") else path


def text_fault(text: str) -> str:
    """Why a text can be neither a name nor a path; "" if it can.

    >>> text_fault("photos/"), text_fault("a\\0b")
    ('', 'has a control character; rename it')
    """
    if any(unicodedata.category(c) == "Cc" for c in text):
        return "has a control character; rename it"
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        return "is not valid Unicode; rename it"
    if len(data) > _LONGEST_PATH or max(map(len, data.split(b"/"))) > _LONGEST_NAME:
        return f"is too long; names have at most {_LONGEST_NAME} bytes"
    return ""


def new_folder(text: str | os.PathLike[str], what: str) -> Path:
    """The path of a folder that can be made, or that is there and can be written to. Nothing is made yet.

    Raises:
        UnderstudyError: whatever `path_of` raises; a part of it is a file; or nothing can be written there.
    """
    path = path_of(text, what)
    there = next(part for part in (path, *path.absolute().parents) if os.path.lexists(part))
    if not there.is_dir():
        raise UnderstudyError(f"{what} cannot be {path}, as {there} is not a folder; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UnderstudyError(f"{what} cannot be {path}, as {there} is read-only; choose another place")
    return path


@contextmanager
def leaving_no_empty_folder(path: Path) -> Iterator[None]:
    """Remove what was made of a folder and of those that it is in, if it is empty at the end."""
    new = [part for part in (path, *path.parents) if not part.exists()]
    try:
        yield
    finally:
        for part in new:
            with suppress(OSError):  # it is gone, or not empty
                part.rmdir()


def write_whole(path: Path, data: bytes | str) -> str:
    """Write beside the place, flush to the disk, rename. Returns the SHA-256 of the bytes.

    Raises:
        UnderstudyError: the disk is full or the folder cannot be written; what was there before stays.
    """
    if isinstance(data, str):
        data = data.encode()
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        try:
            beside.unlink(missing_ok=True)
        except OSError:
            beside = path  # a read-only folder: nothing was made, so nothing is left behind
        raise UnderstudyError(
            f"{path} could not be written ({error.strerror or error}); free space or choose another run folder"
        ) from error
    return hashlib.sha256(data).hexdigest()


def replace_path(new: Path, place: Path) -> None:
    """Move a file or folder to its place, instead of the file or folder that is there."""
    if place.is_dir():
        shutil.rmtree(place)
    os.replace(new, place)


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_files(files: Iterable[Path], root: Path) -> None:
    """Remove files, and the folders below `root` that become empty."""
    for file in files:
        file.unlink(missing_ok=True)
        remove_empty(file.parent, root)


def remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder below `root` if it is empty, then the one that it was in, and so on."""
    while folder != root and root in folder.parents and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def remove_partials(folder: Path) -> None:
    """Remove what processes that were killed left half-written in a folder and the folders in it."""
    for path in (*folder.glob(".*.partial"), *folder.glob("*/.*.partial")):
        if re.fullmatch(r"\.(.+\.)?\d+\.partial", path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        remedy: what to do about a damaged file, for the message.

    Raises:
        UnderstudyError: it cannot be read, is not JSON, or holds something else than names and values.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise UnderstudyError(f"{path} cannot be read ({error.strerror or error}); {remedy}") from None
    except (ValueError, RecursionError) as fault:
        raise UnderstudyError(f"{path} is damaged ({fault}); {remedy}") from None
    if not isinstance(values, dict):
        raise UnderstudyError(f"{path} is damaged (it holds no names and values); {remedy}")
    return values


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
