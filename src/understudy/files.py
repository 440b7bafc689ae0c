"""Files that are written whole or not at all, and read back with care."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError


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
