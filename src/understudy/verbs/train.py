"""`train`: a teacher or a baseline, on labels."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from understudy.config.keywords import TrainKeywords
from understudy.config.recipe import Recipe, TrainRecipe
from understudy.pipeline import run as runner
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run_data import Overrides, require
from understudy.runs.run import Run
from understudy.verbs.arguments import Data, Model, Place, Plan, configure, given, module, place


def train(
    data: Data,
    model: Model,
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    **options: Unpack[TrainKeywords],
) -> Run:
    """Train a teacher or a baseline on labels.

    Args:
        data: whatever `open_source` opens: a name, a path, a map-style Dataset, a pair of arrays or a dict of paired
            ones.
        model: a model's name, a run folder or weights file to start from, or a module that maps (B, *shape) to logits.
        run: the run folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `TrainRecipe`, those of optimizer and augmentation by their own names (`lr=0.1`).

    Raises:
        UnderstudyError: a wrong option, or data, model and options that do not fit each other.

    >>> import understudy
    >>> done = understudy.train("digits", "mlp:16x1", epochs=1, run=tmp / "teacher")  # doctest: +ELLIPSIS
    train  ...
    >>> sorted(done.models)
    ['model-0']
    """
    config = configure(TrainRecipe, options, data=data, model=model)
    return start(config, Overrides(data=given(data), model=module(model), trust_code=True), place(run, overwrite))


def plan(config: Recipe, overrides: Overrides) -> Plan:
    require(config, overrides)
    return Plan({config.kind: config}, overrides)


def start(config: Recipe, overrides: Overrides, place: Place) -> Run:
    return runner.start(pipeline_of(config, overrides), place.run, overwrite=place.overwrite, command=place.command)
