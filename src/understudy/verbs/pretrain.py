"""`pretrain`: a backbone to transfer from, trained as Big Transfer's are; the schedule follows from the data's size."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from understudy.config.keywords import PretrainKeywords
from understudy.config.recipe import TrainRecipe
from understudy.config.upstream import Loss, Upstream, upstream
from understudy.config.verbs import PretrainConfig
from understudy.config.yaml import checked, updated
from understudy.errors import UnderstudyError
from understudy.pipeline import run as runner
from understudy.pipeline.base import new_network
from understudy.pipeline.run_data import Overrides, require
from understudy.pipeline.train import Train
from understudy.runs.run import Run
from understudy.verbs.arguments import Data, Model, Place, Plan, configure, given, module, place
from understudy.verbs.task import has_batch_norm, likely_to_fit, opened, recipe_fields

_FEW_STEPS = 1_000


def pretrain(
    data: Data,
    model: Model = "bit:R50x1",
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    **options: Unpack[PretrainKeywords],
) -> Run:
    """Pre-train a backbone on labeled images as Big Transfer does (Kolesnikov et al. 2020, section 3.2).

    Args:
        data: whatever `open_source` opens.
        model: a model's name, a run folder or weights file to start from, or a module with a head for the data's
            classes.
        run: the run folder, which is a backbone for `transfer`; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `PretrainConfig`, which override the scale's.

    Raises:
        UnderstudyError: data, model and options that do not fit each other.
    """
    config = configure(PretrainConfig, options, data=data, model=model)
    return start(config, Overrides(data=given(data), model=module(model), trust_code=True), place(run, overwrite))


def start(config: PretrainConfig, overrides: Overrides, place: Place) -> Run:
    planned = plan(config, overrides)
    return runner.start(
        Train(planned.recipes["pretrain"], planned.overrides), place.run, overwrite=place.overwrite,
        command=place.command, notes=planned.notes, verb="pretrain",
    )  # fmt: skip


def plan(config: PretrainConfig, overrides: Overrides) -> Plan:
    """The recipe that the scale resolves to on the data."""
    require(config, overrides)
    chosen = config.model_fields_set
    loss: Loss | None = config.loss if "loss" in chosen else None
    size = config.size or 224

    def resolved(examples: int) -> Upstream:
        epochs = config.epochs if "epochs" in chosen else None
        return upstream(examples, config.scale, batch_size=config.batch_size, epochs=epochs, size=size, loss=loss)

    fields = recipe_fields(config)
    for name in ("epochs", "loss", "size"):  # the schedule's
        fields.pop(name, None)
    if "steps" in chosen:
        fields["steps"] = config.steps
    base = {"data": config.data, "model": config.model} | fields
    # the recipe for a single example has every field but the steps, for which the data must be opened
    first = checked(TrainRecipe, updated(resolved(1).fields, base), "pretrain")
    overrides = opened(config, config.data, overrides)
    pipeline = Train(first, overrides)
    train = pipeline.data.train
    if len(train.shape) != 3:
        raise UnderstudyError(f"{train.name} holds vectors, which cannot be cropped; give images, or use train")
    schedule = resolved(len(train))
    network = new_network(first.model, overrides, pipeline.contract(), 0, first.seed, several=True)
    batch_norm = has_batch_norm(network)
    micro = min(config.micro_batch or likely_to_fit(size, batch_norm), config.batch_size)
    values = schedule.fields | {"micro_batch": micro if micro < config.batch_size else None}
    recipe = checked(TrainRecipe, updated(values, base), "pretrain")
    notes = _notes(config, schedule, len(train), micro if batch_norm else config.batch_size)
    return Plan({"pretrain": recipe}, overrides, notes)


def _notes(config: PretrainConfig, schedule: Upstream, examples: int, normed: int) -> tuple[str, ...]:
    """What the user should know; `normed` images share their statistics where there is BatchNorm."""
    decays = ", ".join(f"{step:,}" for step in schedule.milestones)
    notes = [
        f"BiT-{config.scale} on {examples:,} images at {schedule.size} pixels: {schedule.steps:,} steps of "
        f"{schedule.batch_size:,}, learning rate {schedule.base_lr:g}, warm-up {schedule.warmup:,}, "
        f"decays at {decays}, {schedule.loss} loss"
    ]
    if schedule.steps < _FEW_STEPS:
        notes.append(
            f"the schedule has only {schedule.steps:,} steps of {schedule.batch_size:,} images; a smaller --batch-size "
            "gives more steps for the same epochs"
        )
    if normed < schedule.batch_size:
        notes.append(f"BatchNorm's statistics are of the {normed} images of a forward pass, not of a whole batch")
    return tuple(notes)
