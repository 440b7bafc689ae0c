"""`distill` and `compare`: a student trained on soft targets, with the same student trained alone as the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from understudy.config.keywords import CompareKeywords, DistillKeywords
from understudy.config.recipe import CompareRecipe, DistillRecipe
from understudy.errors import UnderstudyError
from understudy.pipeline.run_data import Overrides
from understudy.pipeline.targets import with_targets
from understudy.runs.run import Run
from understudy.verbs import train
from understudy.verbs.arguments import Data, Model, Place, Plan, configure, given, listed, module, place


def plan(config: DistillRecipe, overrides: Overrides) -> Plan:
    return train.plan(with_targets(config), overrides)


def start(config: DistillRecipe, overrides: Overrides, place: Place) -> Run:
    return train.start(with_targets(config), overrides, place)


def distill(
    data: Data,
    teacher: Model | Sequence[Model] | None,
    student: Model,
    *,
    transfer_set: Data | None = None,
    run: str | Path | None = None,
    overwrite: bool = False,
    **options: Unpack[DistillKeywords],
) -> Run:
    """Train a student on its teachers' soft targets, with the same student trained alone as the baseline.

    Args:
        data: as for `train`.
        teacher: run folders, weights files, models with their weights (timm:resnet18?weights=FILE) or modules; several
            make an ensemble. None where their answers are read from `targets`.
        student: a model's name, a run folder or weights file to start from, or a module.
        transfer_set: samples to distill on in place of the training part; labels are not needed.
        run: the run folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `DistillRecipe`.

    Raises:
        UnderstudyError: a wrong option, or data, networks and options that do not fit each other.

    >>> import understudy
    >>> teacher = understudy.train("digits", "mlp:16x1", epochs=1, run=tmp / "teacher")  # doctest: +ELLIPSIS
    train  ...
    >>> done = understudy.distill("digits", teacher.path, "mlp:8x1", epochs=1, run=tmp / "s")  # doctest: +ELLIPSIS
    distill  ...
    >>> sorted(done.models)
    ['alone-0', 'distilled-0']
    """
    config = configure(DistillRecipe, options, data=data, teacher=listed(teacher), student=student,
                       transfer_set=transfer_set)  # fmt: skip
    return start(config, objects(data, teacher, student, transfer_set), place(run, overwrite))


def compare(
    data: Data,
    teacher: Model | Sequence[Model] | None,
    student: Model,
    *,
    transfer_set: Data | None = None,
    run: str | Path | None = None,
    overwrite: bool = False,
    **options: Unpack[CompareKeywords],
) -> Run:
    """Train a student by several methods, and alone, on the same batches: one run, its page a comparison.

    It is `distill` with several methods and three seeds by default.

    Args:
        data, teacher, student, transfer_set, run, overwrite: as for `distill`.
        **options: fields of `CompareRecipe`; `method` names the methods, as in ("kd", "crd", "crd+kd").
    """
    config = configure(CompareRecipe, options, data=data, teacher=listed(teacher), student=student,
                       transfer_set=transfer_set)  # fmt: skip
    return start(config, objects(data, teacher, student, transfer_set), place(run, overwrite))


def objects(data: Data, teacher: Any, student: Model, transfer_set: Data | None) -> Overrides:
    """The arguments of a distillation that are objects."""
    teachers = listed(teacher)
    modules = tuple(one for one in teachers if isinstance(one, nn.Module))
    if modules and len(modules) != len(teachers):
        raise UnderstudyError("teachers are a mix of modules and files; pass all of one kind")
    return Overrides(given(data), module(student), modules, given(transfer_set), trust_code=True)
