"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

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


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
