"""`pretrain`: a backbone to transfer from, trained as Big Transfer's are; the schedule comes from the data's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from understudy import api
from understudy.bit import Upstream, upstream
from understudy.bit.upstream import BATCH, Loss, Scale
from understudy.data import open_source
from understudy.errors import UnderstudyError
from understudy.preparing import Given, build_student, prepare_data, student_contract
from understudy.recipe import TrainRecipe, checked, updated
from understudy.runs import Run, fresh_run
from understudy.transferring import Plan, likely_to_fit

_FEW_STEPS = 1_000  # below which a schedule deserves a word


@dataclass(frozen=True)
class Upward:
    """In what a pre-training is to differ from its scale.

    Attributes:
        scale: "S", "M" or "L".
        batch_size: images of an update; the rate is scaled with them.
        epochs: passes over the images, the falls in proportion.
        size: pixels a side that the network reads.
        loss: "softmax" or "sigmoid"; the scale's where unset.
        micro_batch: images of a forward pass, which add up to the batch; None takes as many as are likely to fit.
    """

    scale: Scale = "S"
    batch_size: int = BATCH
    epochs: int | None = None
    size: int = 224
    loss: Loss | None = None
    micro_batch: int | None = None

    def upstream(self, examples: int) -> Upstream:
        return upstream(
            examples, self.scale, batch=self.batch_size, epochs=self.epochs, side=self.size, loss=self.loss
        )  # fmt: skip


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
        **options: fields of `Upward` by name, as `scale="M"`, and any field of `TrainRecipe`, which goes over the
            scale's.

    Raises:
        UnderstudyError: data, model and options that do not fit each other.
    """
    plan = plan_pretrain(data, model, **options)
    folder = run if run is not None else fresh_run(plan.recipe, "pretrain")
    return api.start(plan.recipe, folder, plan.given, overwrite, command, plan.told)


def plan_pretrain(data: object, model: str | Path | nn.Module = "bit:R50x1", **options: Any) -> Plan:
    """What `pretrain` would perform: the scale resolved on the data, as an ordinary recipe; see there."""
    trust_code = options.pop("trust_code", True)
    upward = Upward(**{name: options.pop(name) for name in Upward.__dataclass_fields__ if name in options})
    module = model if isinstance(model, nn.Module) else None
    base = {"data": api.name_of(data), "model": api.model_name(model)} | api.in_groups(options)
    # the schedule of one example has every field but the true steps, which the data decide
    first = checked(TrainRecipe, updated(upward.upstream(1).fields, base), "pretrain")
    opened: object | None = None if isinstance(data, (str, Path)) else data
    if first.devices * first.nodes == 1 and not first.pair:  # else each process opens the data for itself
        root = Path(first.data_root) if first.data_root else None
        opened = open_source(data, root=root, download=first.download, size=first.size)
    given = Given(data=opened, model=module, trust_code=trust_code)
    material = prepare_data(first, given)
    if len(material.train.shape) != 3:
        raise UnderstudyError(f"{material.train.name} holds vectors, which are not cropped; give images, or use train")
    scale = upward.upstream(len(material.train))
    network = build_student(first.model, given, student_contract(first, material, ()), 0, first.seed, True)
    normed = any(isinstance(layer, _BatchNorm) for layer in network.modules())
    batch = int(base.get("batch_size", scale.batch_size))
    micro = min(upward.micro_batch or likely_to_fit(scale.side, normed), batch)
    values = scale.fields | {"micro_batch": micro if micro < batch else None}
    recipe = checked(TrainRecipe, updated(values, base), "pretrain")
    return Plan(recipe, given, _said(upward, scale, recipe, len(material.train), normed))


def _said(upward: Upward, scale: Upstream, recipe: TrainRecipe, examples: int, normed: bool) -> tuple[str, ...]:
    falls = ", ".join(f"{step:,}" for step in scale.falls)
    told = [
        f"BiT-{upward.scale} on {examples:,} images at {scale.side} pixels: {scale.steps:,} steps of "
        f"{scale.batch_size:,}, rate {scale.base_rate:g}, warm-up {scale.warmup:,}, falls at {falls}, {scale.loss} loss"
    ]
    if scale.steps < _FEW_STEPS:
        told.append(
            f"the schedule has but {scale.steps:,} steps of {scale.batch_size:,} images; a smaller --batch-size makes "
            "more of as many epochs"
        )
    if recipe.micro_batch and normed:
        told.append(
            f"BatchNorm takes its statistics from the {recipe.micro_batch} images of a forward pass, not from a whole "
            "batch"
        )
    return tuple(told)
