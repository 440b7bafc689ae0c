"""The stages of a compression: the student's recipe, and schedules that fit a budget of time.

The student is trained as in Beyer et al. 2021, "Knowledge distillation: a good teacher is patient and consistent": it
and the teacher see the same crop with the same MixUp, and labels are not used. Where the schedule is too short for
that, there is less MixUp and the labels help.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.verbs import CompressConfig, LabelConfig
from understudy.config.yaml import checked
from understudy.errors import UnderstudyError
from understudy.pipeline.distill import Distill
from understudy.pipeline.dry_run import step_seconds
from understudy.pipeline.run_data import Overrides
from understudy.pipeline.train import Train
from understudy.training.logging import clock
from understudy.verbs.task import Task

LARGEST = 224
"""Largest default input size of a student in pixels."""
BATCH = 128
PASSES, FEWEST, MOST = 200, 1_000, 50_000
"""Default passes of the student over the images, and bounds of the number of steps."""
TARGETS = "targets"
"""The folder of the teachers' answers."""
PILOT = 8
"""The student's schedule is so many times as long as the pilot's."""
SHARED = (
    "data_root", "download", "size", "only_classes", "omit_classes", "seed", "precision", "accelerator", "devices",
    "nodes", "compile", "threads", "workers", "checkpoint_every", "tracker",
)  # fmt: skip
"""Options of a compression that all its stages have."""
_LONGEST = 366 * 24 * 3600.0  # seconds
_TEACHER_SHARE, _RESERVED = 0.4, 0.1  # of a budget; the second is for evaluation and export
_LONG_SCHEDULE: dict[str, Any] = {"method": ("kd",), "temperature": 1.0, "hard_weight": 0.0, "mixup": 1.0}
_SHORT_SCHEDULE: dict[str, Any] = {"hard_weight": 0.5, "mixup": 0.2}
_OPTIMIZER: dict[str, Any] = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.02, "warmup": 0.05, "clip": 1.0}


@dataclass(frozen=True)
class Teacher:
    """A teacher to be: its task, and its recipe by the rule."""

    task: Task
    recipe: TrainRecipe
    notes: tuple[str, ...]

    @classmethod
    def of(cls, task: Task, steps: int | None = None) -> Teacher:
        planned = task.plan("teacher", steps)
        recipe = planned.recipes["teacher"]
        assert isinstance(recipe, TrainRecipe)
        return cls(task, recipe, planned.notes)

    @property
    def pipeline(self) -> Train[TrainRecipe]:
        return Train(self.recipe, self.task.overrides)


def default_steps(examples: int, batch_size: int) -> int:
    """Updates of a student without a budget.

    >>> default_steps(720, 128), default_steps(10_000, 128)
    (1125, 15625)
    """
    return min(max(-(-PASSES * examples // batch_size), FEWEST), MOST)


def scheduled(recipe: DistillRecipe, steps: int, examples: int) -> DistillRecipe:
    """A student's recipe over so many steps: without labels, or helped by them where these are less than `PASSES`."""
    is_long = steps * recipe.batch_size >= PASSES * examples
    return recipe.model_copy(update={"steps": steps} | ({} if is_long else _SHORT_SCHEDULE))


def parse_budget(text: float | str) -> float:
    """Seconds of "90s", "30m", "2h", "1h30m" or a number of seconds.

    Raises:
        UnderstudyError: none of these, or zero.

    >>> parse_budget("1h30m"), parse_budget("90"), parse_budget(2.5)
    (5400.0, 90.0, 2.5)
    """
    if not isinstance(text, str):
        seconds = float(text)
    else:
        match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
        if not text.strip() or match is None:
            raise UnderstudyError(f"cannot parse budget {text!r}: write a time, as in 90s, 30m or 1h30m")
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not 0 < seconds <= _LONGEST:
        raise UnderstudyError(f"a budget must be longer than zero and at most a year, not {text}")
    return seconds


def student_recipe(config: CompressConfig, teachers: Sequence[Teacher], size: int, folder: Path) -> DistillRecipe:
    """The student's recipe but for its schedule, on the teachers' crops.

    Args:
        size: the student's input size in pixels.
        folder: of the compression, where the teachers' runs are.
    """
    first = teachers[0].recipe
    augmentation = first.augmentation.model_dump(include={"resize", "crop_size", "flip"})
    micro = min((one.recipe.micro_batch or one.recipe.batch_size for one in teachers), default=BATCH)
    values = first.model_dump(include=set(SHARED)) | _LONG_SCHEDULE | {
        "data": first.data, "teacher": tuple(str(folder / name) for name in teacher_names(len(teachers))),
        "targets": str(folder / TARGETS),
        "student": config.student, "input_size": size, "transfer_set": config.transfer_set,
        "transfer_beside": bool(config.transfer_set), "steps": 1, "batch_size": BATCH,
        "micro_batch": micro if micro < BATCH else None, "optimizer": _OPTIMIZER, "augmentation": augmentation,
    }  # fmt: skip
    return checked(DistillRecipe, values, "compress")


def views_shown(recipe: DistillRecipe, examples: int, most: int) -> int:
    """How many views of each image a student sees, and at most so many."""
    return min(most, max(1, -(-(recipe.steps or 1) * recipe.batch_size // examples)))


def label_config(recipe: DistillRecipe, views: int, threads: int | None) -> LabelConfig:
    """How the teachers of a student's recipe answer its views."""
    shared = set(LabelConfig.model_fields) & set(DistillRecipe.model_fields) - LabelConfig.fixed - {"kind", "threads"}
    values = recipe.model_dump(include=shared) | {
        "views": views, "members": len(recipe.teacher) > 1, "threads": threads,
        "batch_size": recipe.micro_batch or BATCH,
    }  # fmt: skip
    return checked(LabelConfig, values, "compress")


def teacher_names(count: int) -> list[str]:
    """The teachers' stages: "teacher", or "teacher-0", "teacher-1", ..."""
    return ["teacher"] if count == 1 else [f"teacher-{i}" for i in range(count)]


def alone_recipe(recipe: DistillRecipe) -> TrainRecipe:
    """The same student on the labels, as many steps with the same augmentation."""
    values = recipe.model_dump(include=set(TrainRecipe.model_fields) - {"kind"})
    return checked(TrainRecipe, values | {"model": recipe.student}, "compress")


def within_budget(
    seconds: float, teachers: Sequence[Teacher], recipe: DistillRecipe, views: int, overrides: Overrides
) -> tuple[list[str], list[Teacher], int]:
    """Schedules that fit a budget, by a few measured steps of each stage.

    Args:
        views: that the teachers answer at most.

    Returns:
        Notes, the teachers with their steps, and the student's steps.
    """
    with tempfile.TemporaryDirectory() as place:
        files = []
        for i, one in enumerate(teachers):
            (member,) = one.pipeline.members()
            member.network.save(Path(place) / f"{i}.safetensors")
            files.append(str(Path(place) / f"{i}.safetensors"))
        teacher_times = [_update_seconds(one) for one in teachers]
        timed = recipe.model_copy(update={"teacher": tuple(files), "targets": None, "steps": 1_000})
        pipeline = Distill(timed, overrides)
        student_time, answer_time = step_seconds(pipeline)
        view_time = answer_time * len(pipeline.data.train) / recipe.batch_size
    student_time -= answer_time
    if recipe.transfer_set is not None:
        student_time += sum(step_seconds(Train(alone_recipe(timed), overrides)))
    left = seconds * (1 - _RESERVED)
    pilots = 1 + 1 / PILOT
    student_step = student_time * pilots + answer_time
    if sum(teacher_times) > left * _TEACHER_SHARE or student_step > left * (1 - _TEACHER_SHARE):
        least = max(sum(teacher_times) / _TEACHER_SHARE, student_step / (1 - _TEACHER_SHARE)) / (1 - _RESERVED)
        raise UnderstudyError(
            f"a budget of {clock(seconds)} is too short for one step of each stage: an update of the teacher takes "
            f"{clock(sum(teacher_times))} here and one of the student {clock(student_time)}; give at least "
            f"{math.ceil(least)}s, or use smaller images with --crop-size"
        )
    notes, chosen = [], []
    for one, update in zip(teachers, teacher_times, strict=True):
        full = one.recipe.steps or 1
        steps = max(1, min(full, int(left * _TEACHER_SHARE / len(teachers) / update)))
        chosen.append(Teacher.of(one.task, steps))
        notes.append(
            f"budget of {clock(seconds)}: {steps:,} of the rule's {full:,} steps for {one.recipe.model}, "
            f"about {clock(steps * update)}"
        )
        left -= steps * update
    # the teachers answer as many views as the student sees, but no more than `views`
    steps = max(1, int(left / student_step), int((left - views * view_time) / (pilots * student_time)))
    answered = min(steps * answer_time, views * view_time)
    notes.append(
        f"{steps:,} steps of {recipe.batch_size} for the student, about {clock(steps * student_time)}, and about "
        f"{clock(answered)} for the teachers' answers"
    )
    return notes, chosen, steps


def _update_seconds(teacher: Teacher) -> float:
    """Seconds per update of a teacher, measured on its micro-batches."""
    recipe = teacher.recipe
    micro = recipe.micro_batch or recipe.batch_size
    timed = recipe.model_copy(update={"batch_size": micro, "micro_batch": None})
    return step_seconds(Train(timed, teacher.task.overrides))[0] * recipe.batch_size / micro
