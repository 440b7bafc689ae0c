"""`understudy doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from understudy.cli.flags import DataRoot
from understudy.terminal import Terminal

if TYPE_CHECKING:
    from understudy.verbs.doctor import Part


def doctor(*, data_root: DataRoot = None) -> int:
    """Say what this machine has and what is missing: versions, devices, threads, folders, extras."""
    from understudy.verbs.doctor import doctor as verb

    found = verb(data_root=data_root)
    for heading, parts in (("Machine", found.machine), ("Packages", found.packages), ("Folders", found.folders)):
        _print(heading, [(part.name, part.value or part.state, part.remedy) for part in parts])
        Terminal().say("")
    _print("Extras", [(name, _state(parts), _remedy(parts)) for name, parts in found.extras.items()])
    return 0 if found.healthy else 1


def _print(heading: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """Lines that are not broken, so that what they advise can be copied."""
    terminal, width = Terminal(), max((len(name) for name, _, _ in rows), default=0)
    terminal.say(heading, "bold")
    for name, value, remedy in rows:
        terminal.say(f"{name:{width}}  {value}{f'; {remedy}' if remedy else ''}")


def _state(parts: Sequence[Part]) -> str:
    """What is there of an extra, or else what is not."""
    lacking = [f"{part.name} {part.value or part.state}" for part in parts if part.state != "ok"]
    return f"no: {', '.join(lacking)}" if lacking else ", ".join(f"{part.name} {part.value}" for part in parts)


def _remedy(parts: Sequence[Part]) -> str:
    return next((part.remedy for part in parts if part.state != "ok"), "")
