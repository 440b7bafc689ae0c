"""`resume`: continue whatever a folder holds, where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.files import path_of
from understudy.pipeline.device import first_process
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run import train_and_evaluate
from understudy.pipeline.run_data import Overrides
from understudy.runs.collection import RunCollection
from understudy.runs.folder import EvaluatedFolder
from understudy.runs.replace import held
from understudy.runs.run import find_run
from understudy.runs.targets import Results, TargetsFolder
from understudy.verbs import compress, few_shots, label, specialists, suite

COLLECTIONS: dict[str, Callable[[RunCollection, Overrides], RunCollection]] = {
    "transfer": few_shots.resume,
    "suite": suite.resume,
    "compress": compress.resume,
    "specialists": specialists.resume,
}
"""How each verb that makes a collection of runs continues one."""


def resume(folder: str | Path, *, accept_changed_data: bool = False, trust_code: bool = False) -> Results:
    """Continue the run, or the collection of runs, that a folder holds; the result is as if it had not been stopped.

    Args:
        folder: of any verb that trains.
        accept_changed_data: go on even if the data is not what it was when the run began, and say so on its page.
        trust_code: whether functions that the folder's recipes name (pkg.mod:fn) may be imported.

    Raises:
        UnderstudyError: there is nothing to resume, it is finished, a file that it needs is not found, or the data or a
            teacher has changed.
    """
    overrides, path = (
        Overrides(trust_code=trust_code, accept_changed_data=accept_changed_data),
        path_of(folder, "the run folder"),
    )
    if not path.is_dir():
        raise UnderstudyError(f"there is no run folder {folder}; check the path")
    with held(path) if first_process() else nullcontext():
        if (targets := TargetsFolder(path)).exists:
            _check_unfinished(targets)
            return label.resume(targets, overrides)
        collection = RunCollection(path)
        if collection.exists:
            _check_unfinished(collection)
            return COLLECTIONS[collection.kind](collection, overrides)
        run = find_run(path)
        _check_unfinished(run)
        pipeline = pipeline_of(run.located_recipe(required=True), overrides)
        return train_and_evaluate(pipeline, run, run.record.get("command", ()))


def _check_unfinished(found: EvaluatedFolder) -> None:
    if found.finished:
        page = f"; its page is {found.report}" if found.report.exists() else ""
        raise UnderstudyError(f"{found.path} is finished{page}")
