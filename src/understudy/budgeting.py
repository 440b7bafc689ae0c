"""What a compression's stages are: the student's recipe, and schedules that fit a budget of time.

The student learns as in Beyer et al. 2021, "Knowledge distillation: a good teacher is patient and consistent": it and
the teacher see the same crop, mixed by the same MixUp, and no label is looked at. Where there is no time for patience
images are mixed less and labels help.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.dry_run import seconds_a_step
from understudy.errors import UnderstudyError
from understudy.material import Given, prepare_data
from understudy.preparing import prepare_members
from understudy.recipe import DistillRecipe, TrainRecipe
from understudy.recipe_text import checked
from understudy.training.progress import clock
from understudy.transferring import Plan, Task

LARGEST = 224
"""Pixels a side that a student reads at most, unless more are asked for."""
BATCH = 128
PASSES, FEWEST, MOST = 200, 1_000, 50_000
"""Passes over the images that a student has without a budget, and bounds of the steps that this makes."""
PILOT = 8
"""A pilot has one step for so many of the student's."""
_TEACHER_SHARE, _KEPT_FREE = 0.4, 0.1  # of a budget; the second is for evaluation and export
SHARED = (
    "data_root", "download", "size", "only_classes", "omit_classes", "seed", "precision", "accelerator", "devices",
    "nodes", "workers", "checkpoint_every",
)  # fmt: skip
_PATIENT: dict[str, Any] = {"method": ("kd",), "temperature": 1.0, "hard_weight": 0.0, "mixup": 1.0}
_HURRIED: dict[str, Any] = {"hard_weight": 0.5, "mixup": 0.2}
_OPTIMIZER: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.02, "warmup": 0.05, "clip": 1.0}


def patient_steps(examples: int, batch: int) -> int:
    """Updates of a student that is not in a hurry."""
    return min(max(-(-PASSES * examples // batch), FEWEST), MOST)


def scheduled(recipe: DistillRecipe, steps: int, examples: int) -> DistillRecipe:
    """A student's recipe over so many steps: patient, or helped by the labels where these are not `PASSES`."""
    patient = steps * recipe.batch_size >= PASSES * examples
    return recipe.model_copy(update={"steps": steps} | ({} if patient else _HURRIED))


def parse_budget(text: float | str) -> float:
    """Seconds of "90s", "30m", "2h", "1h30m" or a number of seconds.

    Raises:
        UnderstudyError: it is none of these, or nothing.
    """
    if not isinstance(text, str):
        seconds = float(text)
    else:
        match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
        if not text.strip() or match is None:
            raise UnderstudyError(f"a budget is a time, as in 90s, 30m or 1h30m; {text!r} is none")
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UnderstudyError(f"a budget is a time above zero, not {text}")
    return seconds


def student_recipe(plans: Sequence[Plan], asked: Mapping[str, Any], side: int, folder: Path) -> DistillRecipe:
    """The student's recipe, but for its schedule: the teachers' views, mixed, and their answers to learn."""
    first = plans[0].recipe
    names = ["teacher"] if len(plans) == 1 else [f"teacher-{i}" for i in range(len(plans))]
    views = first.views.model_dump(include={"resize", "window", "flip"})
    micro = min((plan.recipe.micro_batch or plan.recipe.batch_size for plan in plans), default=BATCH)
    shared = first.model_dump(include=set(SHARED))
    values = shared | _PATIENT | {
        "data": first.data, "teacher": tuple(str(folder / name) for name in names), "student": asked["student"],
        "read_size": side, "transfer_set": asked["transfer_set"], "transfer_beside": bool(asked["transfer_set"]),
        "steps": 1, "batch_size": BATCH, "micro_batch": micro if micro < BATCH else None,
        "optimizer": _OPTIMIZER, "views": views,
    }  # fmt: skip
    return checked(DistillRecipe, values, "compress")


def alone_recipe(recipe: DistillRecipe) -> TrainRecipe:
    """The same student on the labels, as many steps of the same views."""
    values = recipe.model_dump(include=set(TrainRecipe.model_fields) - {"kind"})
    return checked(TrainRecipe, values | {"model": recipe.student}, "compress")


def within_budget(
    seconds: float, tasks: Sequence[Task], plans: list[Plan], recipe: DistillRecipe, given: Given
) -> tuple[list[str], list[Plan], int]:
    """The schedules that fit a budget, by a few measured steps of each stage: what to say of them, and the steps."""
    with tempfile.TemporaryDirectory() as place:
        files = []
        for i, plan in enumerate(plans):
            (member,) = prepare_members(plan.recipe, plan.given, prepare_data(plan.recipe, plan.given))
            member.network.save(Path(place) / f"{i}.safetensors")
            files.append(str(Path(place) / f"{i}.safetensors"))
        paces = [_update_seconds(plan) for plan in plans]
        timed = recipe.model_copy(update={"teacher": tuple(files), "steps": 1_000})
        pace = seconds_a_step(timed, given)
    if recipe.transfer_set is not None:
        pace += seconds_a_step(alone_recipe(timed), given)
    free = seconds * (1 - _KEPT_FREE)
    if sum(paces) > free * _TEACHER_SHARE or pace * (1 + 1 / PILOT) > free * (1 - _TEACHER_SHARE):
        least = max(sum(paces) / _TEACHER_SHARE, pace * (1 + 1 / PILOT) / (1 - _TEACHER_SHARE)) / (1 - _KEPT_FREE)
        raise UnderstudyError(
            f"a budget of {clock(seconds)} is too short for one step of each stage: an update of the teacher takes "
            f"{clock(sum(paces))} here and one of the student {clock(pace)}; give at least {math.ceil(least)}s, or "
            "read smaller images with --crop-size"
        )
    told, chosen = [], []
    for task, plan, own in zip(tasks, plans, paces, strict=True):
        steps = max(1, min(plan.recipe.steps or 1, int(free * _TEACHER_SHARE / len(plans) / own)))
        chosen.append(replace(task, ways=replace(task.ways, steps=steps)).plan())
        told.append(
            f"budget of {clock(seconds)}: {steps:,} of the rule's {plan.recipe.steps:,} steps for {plan.recipe.model}, "
            f"about {clock(steps * own)}"
        )
        free -= steps * own
    steps = max(1, int(free / (1 + 1 / PILOT) / pace))
    told.append(f"{steps:,} steps of {recipe.batch_size} for the student, about {clock(steps * pace)}")
    return told, chosen, steps


def _update_seconds(plan: Plan) -> float:
    """Seconds of an update of a teacher, by those of its micro-batches."""
    recipe = plan.recipe
    micro = recipe.micro_batch or recipe.batch_size
    timed = recipe.model_copy(update={"batch_size": micro, "micro_batch": None})
    return seconds_a_step(timed, plan.given) * recipe.batch_size / micro
