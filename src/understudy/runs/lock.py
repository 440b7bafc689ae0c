"""One process at a time in a folder: `.lock` names the one that holds it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.files import leaving_no_empty_folder, remove_partials

LOCK = ".lock"


class InUse(UnderstudyError):
    """Another process holds a folder."""


@dataclass(frozen=True)
class Owner:
    """A process: its number and host, and when it began, as numbers are used again."""

    pid: int
    host: str
    began: str = ""

    @classmethod
    def this(cls) -> Owner:
        return cls(os.getpid(), socket.gethostname(), _began(os.getpid()))

    @property
    def gone(self) -> bool:
        """Whether the process is known to have ended; of another host's, nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it runs, for another user
            pass
        return self.began != _began(self.pid)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, and removed again if it stays empty.

    The lock of a process that was killed is taken over, and what it left half-written is removed. A process may hold a
    folder more than once.

    Raises:
        InUse: another process holds it; with its number and host.
    """
    me, path = Owner.this(), folder / LOCK
    if _owner(path) == me:
        yield
        return
    with leaving_no_empty_folder(folder):
        _take(path, me)
        try:
            remove_partials(folder)
            yield
        finally:
            path.unlink(missing_ok=True)


def _take(path: Path, me: Owner) -> None:
    """Write a lock, in the place of one whose owner is gone."""
    while not _written(path, me):
        owner = _owner(path)
        if owner is not None and not owner.gone:
            raise InUse(
                f"{path.parent} is in use by process {owner.pid} on {owner.host}; wait for it or stop it (if it is "
                f"gone, delete {path})"
            )
        path.unlink(missing_ok=True)


def _written(path: Path, owner: Owner) -> bool:
    """Write a lock whole, unless there is one."""
    beside = path.with_name(f"{LOCK}.{owner.pid}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(asdict(owner)) + "\n", encoding="utf-8")
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise UnderstudyError(
            f"{path.parent} could not be written ({error.strerror or error}); choose another --run folder"
        ) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return True


def _owner(path: Path) -> Owner | None:
    """Who a lock names; None where there is no lock, or one that says nothing."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _began(pid: int) -> str:
    """When a process began, in clock ticks since the machine did; empty where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
