"""`resume`: continue whatever a folder holds, where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.files import path_of
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run import train_and_evaluate
from understudy.pipeline.run_data import Overrides
from understudy.runs.collection import RunCollection
from understudy.runs.run import Run, find_run
from understudy.verbs import compress, few_shots, specialists, suite

COLLECTIONS: dict[str, Callable[[RunCollection, Overrides], RunCollection]] = {
    "transfer": few_shots.resume,
    "suite": suite.resume,
    "compress": compress.resume,
    "specialists": specialists.resume,
}
"""How each verb that makes a collection of runs continues one."""


def resume(folder: str | Path, *, trust_code: bool = False) -> Run | RunCollection:
    """Continue the run, or the collection of runs, that a folder holds; the result is as if it had not been stopped.

    Args:
        folder: of any verb that trains.
        trust_code: whether functions that the folder's recipes name (pkg.mod:fn) may be imported.

    Raises:
        UnderstudyError: there is nothing to resume, or it is finished.
    """
    path = path_of(folder, "the run folder")
    overrides, collection = Overrides(trust_code=trust_code), RunCollection(path)
    if collection.exists:
        if collection.finished:
            raise UnderstudyError(f"{folder} is finished; its page is {collection.report}")
        return COLLECTIONS[collection.kind](collection, overrides)
    run = find_run(path)
    if run.finished:
        raise UnderstudyError(f"{folder} is finished; its page is {run.report}")
    return train_and_evaluate(pipeline_of(run.recipe, overrides), run, run.record.get("command", ()))
