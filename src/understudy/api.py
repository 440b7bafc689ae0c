"""The verbs in Python: the same names, defaults and checks as on the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from understudy.data import Source
from understudy.dry_run import dry_run
from understudy.errors import UnderstudyError
from understudy.material import Given
from understudy.performing import perform
from understudy.predicting import Prediction, predict
from understudy.preparing import check_recipe
from understudy.recipe import COMPARED, AnyRecipe, DistillRecipe, Optimizer, TrainRecipe, Views
from understudy.recipe_text import checked
from understudy.runs import Run, find_run, fresh_run
from understudy.scoring import confusion_of, evaluate, with_class_priors

__all__ = [
    "Prediction",
    "compare",
    "confusion_of",
    "distill",
    "dry_run",
    "ensure_run",
    "evaluate",
    "in_groups",
    "model_name",
    "name_of",
    "predict",
    "resume",
    "run_recipe",
    "start",
    "train",
    "with_class_priors",
]


def train(data: object, model: str | nn.Module, *, run: str | Path | None = None, **fields: Any) -> Run:
    """Train a teacher or a baseline.

    Args:
        data: whatever `open_source` opens: a name, a path, a map-style Dataset, a pair of arrays or a dict of paired
            ones.
        model: a model's name, a module that maps (B, *shape) to logits, or a run folder or weights file to begin from.
        run: the run folder; a new one under runs/ where unset.
        **fields: any field of `TrainRecipe`, those of the optimiser and the views by their own names (`lr=0.1`,
            `jitter=2`); also `overwrite=True` to replace what the folder holds.

    Raises:
        UnderstudyError: a wrong field, or data, model and fields that do not fit each other.
    """
    overwrite = fields.pop("overwrite", False)
    names = {"data": name_of(data), "model": model_name(model)}
    recipe = checked(TrainRecipe, names | in_groups(fields), "train")
    given = Given(
        data=None if isinstance(data, (str, Path)) else data,
        model=model if isinstance(model, nn.Module) else None,
        trust_code=True,
    )
    return start(recipe, run, given, overwrite)


def distill(
    data: object,
    teacher: str | Path | nn.Module | Sequence[str | Path | nn.Module],
    student: str | Path | nn.Module,
    *,
    transfer_set: object | None = None,
    run: str | Path | None = None,
    **fields: Any,
) -> Run:
    """Train a student on its teachers' soft targets, beside the same student trained alone.

    Args:
        data: as for `train`.
        teacher: run folders, weights files or modules; several make an ensemble.
        student: a model's name or a module.
        transfer_set: samples to distil on in place of the data's training part.
        **fields: any field of `DistillRecipe`.
    """
    overwrite = fields.pop("overwrite", False)
    teachers = [teacher] if isinstance(teacher, (str, Path, nn.Module)) else list(teacher)
    modules = tuple(t for t in teachers if isinstance(t, nn.Module))
    if modules and len(modules) != len(teachers):
        raise UnderstudyError("teachers are either modules or files; give all of one kind")
    names = {
        "data": name_of(data),
        "teacher": [type(t).__name__ if isinstance(t, nn.Module) else str(t) for t in teachers],
        "student": model_name(student),
        "transfer_set": None if transfer_set is None else name_of(transfer_set),
    }
    recipe = checked(DistillRecipe, names | in_groups(fields), "distill")
    given = Given(
        data=None if isinstance(data, (str, Path)) else data,
        model=student if isinstance(student, nn.Module) else None,
        teachers=modules,
        transfer_set=None if isinstance(transfer_set, (str, Path)) else transfer_set,
        trust_code=True,
    )
    return start(recipe, run, given, overwrite)


def compare(
    data: object,
    teacher: str | Path | nn.Module | Sequence[str | Path | nn.Module],
    student: str | Path | nn.Module,
    methods: Sequence[str] = COMPARED,
    *,
    seeds: int = 3,
    **fields: Any,
) -> Run:
    """`distill` by several methods, and alone, on the same batches: one run, its page a comparison.

    Args:
        methods: as in "crd" or "crd+kd"; `understudy methods` lists them.
        seeds: initialisations of each, the same ones for every method.
        **fields: any field of `distill`.
    """
    return distill(data, teacher, student, method=tuple(methods), seeds=seeds, **fields)


def run_recipe(
    recipe: AnyRecipe,
    *,
    run: Path | None = None,
    overwrite: bool = False,
    trust_code: bool = False,
    command: Sequence[str] = (),
) -> Run:
    """Start a run from a recipe."""
    return start(recipe, run, Given(trust_code=trust_code), overwrite, command)


def ensure_run(recipe: AnyRecipe, run: Path, given: Given | None = None, command: Sequence[str] = ()) -> Run:
    """A finished run of this recipe: the one in the folder, that one resumed, or a new one."""
    found = Run(run)
    if found.exists and found.recipe == recipe:
        return found if found.finished else perform(recipe, found, given or Given(), command)
    return start(recipe, run, given or Given(), False, command)


def resume(run: str | Path, *, trust_code: bool = False) -> Run:
    """Go on with an unfinished run from its newest whole checkpoint."""
    found = find_run(Path(run))
    if found.finished:
        raise UnderstudyError(f"{run} is finished; its report is {found.report}")
    done = perform(found.recipe, found, Given(trust_code=trust_code))
    from understudy import speaking  # it stands on this module

    return speaking.finish(done) if speaking.is_speech(done) else done


def start(
    recipe: AnyRecipe,
    run: str | Path | None,
    given: Given,
    overwrite: bool,
    command: Sequence[str] = (),
    told: Sequence[str] = (),
) -> Run:
    """Perform a recipe in a folder of its own; `told` are lines for its page."""
    check_recipe(recipe, given)
    folder = Path(run) if run is not None else fresh_run(recipe)
    found = Run(folder)
    if int(os.environ.get("RANK", "0")) > 0:  # torchrun's first process takes the folder
        return perform(recipe, found, given, command)
    found.open(recipe, overwrite=overwrite)
    if told:
        found.note(told=list(told))
    try:
        return perform(recipe, found, given, command)
    except UnderstudyError:
        found.leave()
        raise


def in_groups(fields: dict[str, Any]) -> dict[str, Any]:
    """Put the optimiser's and the views' fields into their groups."""
    groups = {"optimizer": set(Optimizer.model_fields), "views": set(Views.model_fields)}
    grouped = {name: value for name, value in fields.items() if not any(name in own for own in groups.values())}
    for group, own in groups.items():
        values = {name: value for name, value in fields.items() if name in own}
        if group in fields and not isinstance(fields[group], str):
            grouped[group] = fields[group]
        elif values:
            grouped[group] = values
    return grouped


def model_name(model: str | Path | nn.Module) -> str:
    return type(model).__name__ if isinstance(model, nn.Module) else str(model)


def name_of(data: object) -> str:
    if isinstance(data, (str, Path)):
        return str(data)
    return data.name if isinstance(data, Source) else type(data).__name__
