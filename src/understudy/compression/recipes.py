"""The recipes of a compression's stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from understudy.compression.outline import Outline
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.verbs import CompressConfig, LabelConfig
from understudy.config.yaml import checked

BATCH = 64
VALIDATION = 0.15
"""The part of the training images that teachers and students are chosen by."""
TARGETS = "targets"
"""The folder of the teachers' answers."""
METHODS = ("kd", "kd:temperature=1", "dist", "crd+kd")
"""What `auto` races; see `objective_of`."""
SHARED = (
    "data", "data_root", "download", "only_classes", "omit_classes", "seed", "precision", "accelerator", "devices",
    "nodes", "compile", "threads", "workers", "checkpoint_every", "tracker",
)  # fmt: skip
"""Options of a compression that all its stages have."""
_TUNING: dict[str, Any] = {
    "batch_size": 32, "label_smoothing": 0.1,
    "optimizer": {"name": "adamw", "lr": 1e-4, "weight_decay": 0.05, "warmup": 0.1, "clip": 1.0},
}  # fmt: skip
_LEARNING: dict[str, Any] = {
    "temperature": 2.0, "hard_weight": 0.1, "batch_size": BATCH,
    "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.02, "warmup": 0.05, "clip": 1.0},
}  # fmt: skip
_FEWEST, _MOST, _PASSES = 1_000, 50_000, 200


def default_steps(examples: int, batch_size: int = BATCH) -> int:
    """Updates of a student without a budget: 200 passes, within bounds.

    >>> default_steps(720), default_steps(10_000)
    (2250, 31250)
    """
    return min(max(-(-_PASSES * examples // batch_size), _FEWEST), _MOST)


def backbone_recipe(config: CompressConfig, backbone: str, outline: Outline) -> TrainRecipe:
    """The backbone as it is, under the better of its own head and a linear probe."""
    values = _shared(config, outline) | {
        "model": backbone, "input_size": outline.teacher_size, "head": "best", "steps": 0,
        "batch_size": min(BATCH, outline.examples),
    }  # fmt: skip
    return checked(TrainRecipe, values, "compress")


def tuned_recipe(config: CompressConfig, backbone: str, outline: Outline) -> TrainRecipe:
    """The same fine-tuned from there, with the validation part held out.

    Args:
        backbone: the folder of the run of `backbone_recipe`.
    """
    steps = config.teacher_steps and {"steps": config.teacher_steps}
    values = _shared(config, outline) | _TUNING | {
        "model": backbone, "input_size": outline.teacher_size, "validation": VALIDATION, "patience": 3,
        "epochs": max(outline.tuned_epochs, 1), "micro_batch": config.micro_batch,
    }  # fmt: skip
    values["batch_size"] = min(values["batch_size"], max(2, outline.examples // 4))
    return checked(TrainRecipe, values | (steps or {}), "compress")


def student_recipe(
    config: CompressConfig,
    outline: Outline,
    teachers: Sequence[str],
    targets: str,
    student: str,
    method: str,
    steps: int,
) -> DistillRecipe:
    """A student of the teachers' answers.

    Args:
        teachers, targets: paths.
        student: a model's name.
        method: one of the configuration's, perhaps with options.
    """
    given: dict[str, Any] = config.model_dump(include={"temperature", "hard_weight"}, exclude_unset=True)
    values = _shared(config, outline) | _LEARNING | given | {
        "teacher": tuple(teachers), "targets": targets, "student": student, "input_size": outline.student_size,
        "steps": steps, "transfer_set": config.transfer_set, "transfer_beside": bool(config.transfer_set),
    }  # fmt: skip
    values["batch_size"] = min(values["batch_size"], max(2, outline.examples // 2))
    name, _, options = method.partition(":")
    values |= {"method": name} if not options else {"objective": (method,)}
    return checked(DistillRecipe, values, "compress")


def alone_recipe(recipe: DistillRecipe) -> TrainRecipe:
    """The same student on the labels, as many steps with the same augmentation."""
    values = recipe.model_dump(include=set(TrainRecipe.model_fields) - {"kind"})
    return checked(TrainRecipe, values | {"model": recipe.student}, "compress")


def label_config(recipe: DistillRecipe, views: int, embedding: bool, threads: int | None) -> LabelConfig:
    """How the teachers of a student's recipe answer its views."""
    shared = set(LabelConfig.model_fields) & set(DistillRecipe.model_fields) - LabelConfig.fixed - {"kind", "threads"}
    values = recipe.model_dump(include=shared) | {
        "views": views, "members": len(recipe.teacher) > 1, "threads": threads, "batch_size": BATCH // 2,
        "embedding": embedding,
    }  # fmt: skip
    return checked(LabelConfig, values, "compress")


def _shared(config: CompressConfig, outline: Outline) -> dict[str, Any]:
    values: dict[str, Any] = config.model_dump(include=set(SHARED), exclude_unset=True) | {"size": outline.view_size}
    return values if config.flip is None else values | {"augmentation": {"flip": config.flip}}
