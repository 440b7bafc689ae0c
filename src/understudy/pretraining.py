"""`pretrain`: a backbone to transfer from, trained as Big Transfer's are; the schedule comes from the data's size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from understudy import api
from understudy.bit import Upstream, upstream
from understudy.bit.upstream import BATCH, Loss, Scale
from understudy.data import open_source
from understudy.errors import UnderstudyError
from understudy.material import Given, prepare_data
from understudy.preparing import build_student, student_contract
from understudy.recipe import TrainRecipe
from understudy.recipe_text import checked, updated
from understudy.runs import Run, fresh_run
from understudy.transferring import Plan, likely_to_fit

_FEW_STEPS = 1_000  # below which a schedule deserves a word


def pretrain(
    data: object,
    model: str | Path | nn.Module = "bit:R50x1",
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    command: Sequence[str] = (),
    **options: Any,
) -> Run:
    """Pre-train a backbone on a labelled set of images as Big Transfer does (Kolesnikov et al. 2020, section 3.2).

    Args:
        data: whatever `open_source` opens.
        model: a model's name, a module with a head for the data's classes, or a run or weights to begin from.
        run: the run folder; a new one under runs/ where unset. It is a backbone for `transfer`.
        **options: what `plan_pretrain` takes, and any field of `TrainRecipe`, which goes over the scale's.

    Raises:
        UnderstudyError: data, model and options that do not fit each other.
    """
    plan = plan_pretrain(data, model, **options)
    folder = run if run is not None else fresh_run(plan.recipe, "pretrain")
    return api.start(plan.recipe, folder, plan.given, overwrite, command, plan.told)


def plan_pretrain(
    data: object,
    model: str | Path | nn.Module = "bit:R50x1",
    *,
    scale: Scale = "S",
    batch_size: int = BATCH,
    epochs: int | None = None,
    size: int = 224,
    loss: Loss | None = None,
    micro_batch: int | None = None,
    trust_code: bool = True,
    **fields: Any,
) -> Plan:
    """What `pretrain` would perform: the scale resolved on the data, as an ordinary recipe; see there.

    Args:
        scale, batch_size, epochs, size, loss: see `bit.upstream`.
        micro_batch: images of a forward pass, which add up to the batch; None takes as many as are likely to fit.
    """

    def resolved(examples: int) -> Upstream:
        return upstream(examples, scale, batch=batch_size, epochs=epochs, side=size, loss=loss)

    base = {"data": api.name_of(data), "model": api.model_name(model)} | api.in_groups(fields)
    # the recipe of a single example has every field but the steps, for which the data must be opened
    first = checked(TrainRecipe, updated(resolved(1).fields, base), "pretrain")
    opened: object | None = None if isinstance(data, (str, Path)) else data
    if first.devices * first.nodes == 1 and not first.pair:  # else each process opens the data for itself
        root = Path(first.data_root) if first.data_root else None
        opened = open_source(data, root=root, download=first.download, size=size)
    given = Given(data=opened, model=model if isinstance(model, nn.Module) else None, trust_code=trust_code)
    material = prepare_data(first, given)
    if len(material.train.shape) != 3:
        raise UnderstudyError(
            f"{material.train.name} holds vectors, which cannot be cropped; give images, or use train"
        )
    schedule = resolved(len(material.train))
    network = build_student(first.model, given, student_contract(first, material, ()), 0, first.seed, True)
    normed = any(isinstance(layer, _BatchNorm) for layer in network.modules())
    micro = min(micro_batch or likely_to_fit(size, normed), batch_size)
    values = schedule.fields | {"micro_batch": micro if micro < batch_size else None}
    recipe = checked(TrainRecipe, updated(values, base), "pretrain")
    return Plan(recipe, given, _said(scale, schedule, len(material.train), micro if normed else batch_size))


def _said(scale: Scale, schedule: Upstream, examples: int, normed: int) -> tuple[str, ...]:
    """What the user should know; `normed` images share their statistics where a network takes any."""
    falls = ", ".join(f"{step:,}" for step in schedule.falls)
    told = [
        f"BiT-{scale} on {examples:,} images at {schedule.side} pixels: {schedule.steps:,} steps of "
        f"{schedule.batch_size:,}, rate {schedule.base_rate:g}, warm-up {schedule.warmup:,}, falls at {falls}, "
        f"{schedule.loss} loss"
    ]
    if schedule.steps < _FEW_STEPS:
        told.append(
            f"the schedule has but {schedule.steps:,} steps of {schedule.batch_size:,} images; a smaller --batch-size "
            "makes more of as many epochs"
        )
    if normed < schedule.batch_size:
        told.append(
            f"BatchNorm takes its statistics from the {normed} images of a forward pass, not from a whole batch"
        )
    return tuple(told)
