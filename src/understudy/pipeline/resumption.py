"""What a resumed run must find as it was: its data, its teachers, and on a CPU the number of threads.

All of it is noted when a run begins. Data that has changed, and teachers that have, are refused.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from understudy.data import Source
from understudy.data.fingerprint import Fingerprint, differences
from understudy.errors import UnderstudyError
from understudy.files import sha256, write_whole
from understudy.pipeline.threads import using_threads
from understudy.runs.collection import RunCollection
from understudy.runs.folder import DATA, EvaluatedFolder
from understudy.runs.run import Run
from understudy.terminal import Terminal

_NOT_OURS = (ValueError, TypeError, LookupError, AttributeError)  # of JSON that `write_fingerprints` did not make
Known = dict[str, Fingerprint | None]
"""The parts of the data by name; None for one that there was not."""


def check_data(
    run: Run | RunCollection,
    name: str,
    parts: Mapping[str, Source | None],
    *,
    within: RunCollection | None = None,
    accept_changes: bool,
) -> None:
    """Compare the data with what it was when the run began; note it where the run begins.

    Args:
        name: of the data, for the message.
        parts: the data; None for a part that there is not.
        within: a collection whose runs all have this data: it must be what it was when the first of them began.
        accept_changes: go on with changed data, and note that.

    Raises:
        UnderstudyError: it has changed.
    """
    folder = within or run
    sources = {key: one for part, source in parts.items() for key, one in _modalities(part, source).items()}
    known = read_fingerprints(folder.path / DATA)
    changes = []
    for part, source in sources.items():
        if part in known and (found := _changes(known[part], source)):
            changes.append(f"{part}: {', '.join(found)}")
    listed = "; ".join(changes)
    said = f"{name} has changed since {folder.path} began ({listed})"
    if any(one and (now := sources.get(part)) and one.classes != now.classes for part, one in known.items()):
        raise UnderstudyError(f"{said}, and the networks are of its former classes; restore it, or start a new run")
    if changes and not accept_changes:
        raise UnderstudyError(
            f"{said}; restore it, start a new run, or go on with it as it is: understudy resume {folder.path} "
            "--accept-changed-data"
        )
    if changes:
        _say(run, f"The data changed while the run was interrupted, and training went on with it: {listed}.")
        known = {part: one for part, one in known.items() if part not in sources}
    if new := {part: source for part, source in sources.items() if part not in known}:
        added: Known = {part: None if source is None else Fingerprint.of(source) for part, source in new.items()}
        write_fingerprints(folder.path / DATA, known | added)


def check_teachers(run: Run, files: Sequence[str]) -> None:
    """Compare the teachers' hashes with those noted; note them where the run begins.

    Raises:
        UnderstudyError: a teacher has changed.
    """
    found = {file: sha256(Path(file)) for file in files}
    known = run.record.get("teachers")
    if known is None:
        run.note(teachers=found)
    elif list(known.values()) != list(found.values()):  # by hash alone, as files may have moved
        pairs = zip(found, found.values(), known.values(), strict=False)
        changed = next((file for file, now, before in pairs if now != before), "one")
        raise UnderstudyError(f"teacher {changed} has changed since this run began; restore it or start a new run")


@contextmanager
def same_machine(fabric: Fabric, run: EvaluatedFolder, choose: Callable[[], int]) -> Iterator[None]:
    """Compute with the number of threads that a run on a CPU began with, as its sums depend on it.

    Another device or precision is reported, as the results then differ in their last digits.

    Args:
        choose: the number of threads of a run that begins.
    """
    here: dict[str, Any] = {"device": fabric.device.type, "precision": fabric.strategy.precision.precision}
    threads = 0
    if fabric.global_rank == 0:
        known = run.record.get("machine") or {}
        changed = [f"{known[key]}, now {value}" for key, value in here.items() if known and known[key] != value]
        if changed:
            _say(run, f"Resumed on another machine ({'; '.join(changed)}): the result is not that of a run in one go.")
        threads = known["threads"] if known and not changed and fabric.device.type == "cpu" else choose()
        run.note(machine=here | {"threads": threads})
    with using_threads(fabric.broadcast(threads)):
        yield


def threads_of(found: RunCollection) -> int | None:
    """The number of threads that the first of a collection's runs began with; None where none has begun.

    The others take it, so that it does not matter which of them had begun when the collection was stopped.
    """
    for name, run in found.runs.items():
        inner = RunCollection(found.path / name)
        threads = threads_of(inner) if inner.exists else run.record.get("machine", {}).get("threads")
        if threads is not None:
            return threads
    return None


def _modalities(part: str, source: Source | None) -> dict[str, Source | None]:
    found: dict[str, Source | None] = {part: source}
    return found if source is None else found | {f"{part}, {name}": pair for name, pair in source.pairs.items()}


def _changes(known: Fingerprint | None, source: Source | None) -> list[str]:
    if known is None or source is None:
        return [] if known is source else ["added" if known is None else "removed"]
    return differences(known, source)


def _say(run: EvaluatedFolder, sentence: str) -> None:
    """On the console, and in the notes, which are on the page."""
    Terminal().say(sentence, "yellow")
    run.note(notes=[*run.record.get("notes", ()), sentence])


def read_fingerprints(path: Path) -> Known:
    """What `write_fingerprints` wrote; nothing where there is no file.

    Raises:
        UnderstudyError: it is damaged.
    """
    try:
        values = json.loads(gzip.decompress(path.read_bytes()))
        return {part: None if one is None else Fingerprint.from_json(one) for part, one in values.items()}
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, zlib.error, ArithmeticError, RuntimeError, *_NOT_OURS) as fault:
        raise UnderstudyError(
            f"{path} cannot be read ({fault}); restore it, or remove it to go on with the data as it is"
        ) from None


def write_fingerprints(path: Path, known: Known) -> None:
    values = {part: None if one is None else one.to_json() for part, one in known.items()}
    write_whole(path, gzip.compress(json.dumps(values).encode(), 3, mtime=0))
