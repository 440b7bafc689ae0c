"""The recipes of a compression's stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from understudy.compression.outline import Outline, default_passes
from understudy.config.finetune import FineTuning, batch_for_tuning
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.verbs import CompressConfig, LabelConfig
from understudy.config.yaml import checked

VALIDATION = 0.15
"""The part of the training images that teachers and students are chosen by."""
ANSWERED = 32
"""Images of a teacher's forward pass."""
TARGETS = "targets"
"""The folder of the teachers' answers."""
METHODS = ("pkt+cosine+kd", "cosine+kd", "kd", "crd+kd", "dist")
"""What `auto` races."""
_EMBEDDED = 50_000  # images of which the teachers' embeddings are kept too, where no method is asked for
SHARED = (
    "data", "data_root", "download", "only_classes", "omit_classes", "seed", "precision", "accelerator", "devices",
    "nodes", "compile", "threads", "workers", "checkpoint_every", "tracker",
)  # fmt: skip
"""Options of a compression that all its stages have."""
_LEARNING: dict[str, Any] = {
    "temperature": 2.0,
    "optimizer": {"name": "adamw", "lr": 4e-3, "weight_decay": 0.02, "warmup": 0.05, "clip": 1.0},
}  # fmt: skip


def methods_for(config: CompressConfig, examples: int) -> tuple[str, ...]:
    """The methods to try: those asked for, else one that fits the number of images.

    >>> methods_for(CompressConfig(), 720), methods_for(CompressConfig(), 10**6)
    (('pkt+cosine+kd',), ('kd+ce',))
    """
    if config.method == ("auto",):
        return METHODS
    return config.method or (METHODS[:1] if examples <= _EMBEDDED else ("kd+ce",))


def members_of(config: CompressConfig) -> int:
    """How many networks the last stage trains."""
    return config.seeds * (2 if config.baseline else 1)


def default_steps(outline: Outline) -> int:
    """Updates of a student without a budget."""
    return math.ceil(default_passes(outline.examples) * outline.examples / outline.batch_size)


def backbone_recipe(config: CompressConfig, backbone: str, outline: Outline) -> TrainRecipe:
    """The backbone as it is, under the better of its own head and a linear probe."""
    values = _shared(config, outline) | {
        "model": backbone, "input_size": outline.teacher_size, "head": "best", "steps": 0,
        "batch_size": min(ANSWERED, outline.scored), "fraction": outline.scored / outline.examples,
    }  # fmt: skip
    return checked(TrainRecipe, values, "compress")


def tuned_recipe(config: CompressConfig, backbone: str, outline: Outline) -> TrainRecipe:
    """The same fine-tuned from there, with the validation part held out.

    Args:
        backbone: the folder of the run of `backbone_recipe`.
    """
    steps = config.teacher_steps and {"steps": config.teacher_steps}
    rule = FineTuning(max(outline.tuned_epochs, 1), batch_for_tuning(outline.examples), VALIDATION)
    values = _shared(config, outline) | rule.fields | {
        "head": "keep", "model": backbone, "input_size": outline.teacher_size, "micro_batch": config.micro_batch,
    }  # fmt: skip
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
        "steps": steps, "batch_size": min(outline.batch_size, max(2, outline.examples // 2)),
        "transfer_set": config.transfer_set, "transfer_beside": bool(config.transfer_set),
    }  # fmt: skip
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
        "views": views, "members": len(recipe.teacher) > 1, "threads": threads, "batch_size": ANSWERED,
        "embedding": embedding, "int8": embedding,
    }  # fmt: skip
    return checked(LabelConfig, values, "compress")


def _shared(config: CompressConfig, outline: Outline) -> dict[str, Any]:
    values: dict[str, Any] = config.model_dump(include=set(SHARED), exclude_unset=True) | {"size": outline.view_size}
    return values if config.flip is None else values | {"augmentation": {"flip": config.flip}}
