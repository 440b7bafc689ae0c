"""A folder's results replaced as a whole: new ones are made beside them, and take their place once they stand.

FOLDER/.understudy-new/    the new results, until the first checkpoint among them
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from understudy.config.options import Options
from understudy.config.places import with_files
from understudy.config.yaml import dumped
from understudy.errors import Interrupted, UnderstudyError
from understudy.files import path_of, remove_empty, write_whole
from understudy.runs.collection import RunCollection
from understudy.runs.folder import RECORD
from understudy.runs.lock import locked
from understudy.runs.places import is_data_set
from understudy.runs.run import Run

STAGED = ".understudy-new"
_LEAVING, _LEFT = ".replacing", ".replaced"
"""Where the old files go, and what that folder is called once all are there."""


def is_staged(folder: Path) -> bool:
    """Whether what is made in a folder is to replace something: training pauses there at its first checkpoint."""
    return STAGED in folder.parts


def replace_results(folder: Path, config: Options, begin: Callable[[Path], object], *, writes: bool = True) -> None:
    """Begin new results in a folder, in the place of those that it holds, if any.

    Args:
        config: what is to be done; nothing that it names may be among the files that would be replaced.
        begin: folder -> does it there, until `Interrupted` by the pause at the first checkpoint.
        writes: whether this is the process that writes, of those that torchrun started.

    Raises:
        UnderstudyError: the new results could not be begun, and the old ones stay.
        Interrupted: a signal asked to stop, after the new results took the place.
    """
    staged = folder / STAGED
    if not writes:
        stop = _begin(begin, staged)
    else:
        with held(folder):
            _check_inputs(config, folder, files_of_results(folder))
            try:
                stop = _begin(begin, staged)
                if not any(staged.rglob("step-*.sha256")):
                    reason = str(stop).partition(";")[0] if stop else "nothing could be trained"
                    raise UnderstudyError(f"{reason}; {folder} is as it was")
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
            _rename_within(staged, folder)
            _move(folder)
    if stop is not None and stop.signal_number:
        raise stop.named(str(folder))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, as `locked`; if a process was killed while it replaced results there, that is finished first."""
    with locked(folder):
        if any((folder / name).exists() for name in (_LEAVING, _LEFT)):
            _move(folder)
        elif (folder / STAGED).exists():
            shutil.rmtree(folder / STAGED)
        yield


def _begin(begin: Callable[[Path], object], staged: Path) -> Interrupted | None:
    try:
        begin(staged)
    except Interrupted as stop:
        return stop
    return None


def files_of_results(folder: Path) -> list[Path]:
    """The files that a run or a collection of runs wrote in its folder; none where there is neither.

    Raises:
        UnderstudyError: the folder has a recipe or a record that no run wrote.
    """
    collection = RunCollection(folder)
    return list((collection if collection.exists else Run(folder)).files())


def _check_inputs(config: Options, folder: Path, files: Collection[Path]) -> None:
    """Check that nothing that a configuration names is among the files that would be replaced."""
    place, taken = folder.resolve(), {file.resolve() for file in files}

    def check(option: str, name: str) -> str:
        path = path_of(name, option).resolve()
        if not is_data_set(option, name) and (path == place or not taken.isdisjoint((path, *path.parents))):
            raise UnderstudyError(f"{name}, which this run reads, would be replaced; choose another --run folder")
        return name

    if taken:
        with_files(config, check)


def _move(folder: Path) -> None:
    """Put new results in the place of the old ones; everything else that the folder holds stays."""
    leaving, left, staged = folder / _LEAVING, folder / _LEFT, folder / STAGED
    if not left.exists():
        leaving.mkdir(exist_ok=True)
        for file in files_of_results(folder):
            _rename(file, leaving / file.relative_to(folder))
            remove_empty(file.parent, folder)
        os.replace(leaving, left)
    for path in sorted(staged.rglob("*")):
        if not path.is_dir():
            _rename(path, folder / path.relative_to(staged))
    shutil.rmtree(staged, ignore_errors=True)  # it is gone if a process was killed here
    shutil.rmtree(left)


def _rename(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, place)


def _rename_within(staged: Path, folder: Path) -> None:
    """Have the records of results name the folder that they move to."""
    moves = [(str(staged), str(folder)), (str(staged.absolute()), str(folder.absolute()))]

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            for old, new in moves:
                if value == old or value.startswith(old + os.sep):
                    return new + value[len(old) :]
            return value
        if isinstance(value, dict):
            return {renamed(key): renamed(one) for key, one in value.items()}
        return [renamed(one) for one in value] if isinstance(value, list) else value

    for path in (*staged.rglob(RECORD), *staged.rglob("run.json")):
        write_whole(path, json.dumps(renamed(json.loads(path.read_bytes())), indent=1) + "\n")
    for path in staged.rglob("recipe.yaml"):
        digest = write_whole(path, dumped(renamed(yaml.safe_load(path.read_text(encoding="utf-8")))))
        Run(path.parent).note(recipe_sha256=digest)
