"""`transfer`: a pre-trained backbone fine-tuned by a rule that takes its numbers from the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack, overload

from understudy.config.keywords import TransferKeywords
from understudy.config.verbs import TransferConfig
from understudy.pipeline import run as runner
from understudy.pipeline.run_data import Overrides, require
from understudy.pipeline.train import Train
from understudy.runs.collection import RunCollection
from understudy.runs.run import Run
from understudy.verbs import few_shots
from understudy.verbs.arguments import Data, Model, Place, Plan, configure, given, module, place
from understudy.verbs.task import Task


@overload
def transfer(
    data: Data,
    backbone: Model,
    *,
    run: str | Path | None = ...,
    overwrite: bool = ...,
    **options: Unpack[TransferKeywords],
) -> Run: ...
@overload
def transfer(
    data: Data,
    backbone: Model,
    *,
    shots: Sequence[int],
    run: str | Path | None = ...,
    overwrite: bool = ...,
    **options: Unpack[TransferKeywords],
) -> RunCollection: ...
def transfer(
    data: Data, backbone: Model, *, shots: Sequence[int] = (), run: str | Path | None = None, overwrite: bool = False,
    **options: Unpack[TransferKeywords],
) -> Run | RunCollection:  # fmt: skip
    """Fine-tune a pre-trained backbone on labeled images, from a linear probe or by BiT-HyperRule.

    The latter (Kolesnikov et al. 2020, section 3.3) is for networks with GroupNorm, see `TransferOptions.rule`.

    Args:
        data: whatever `open_source` opens.
        backbone: a model's name ("timm:..." and "torchvision:..." load their pre-trained weights), a run folder, a
            weights file, or a module with a head for the data's classes.
        shots: training images per class: several transfers from random draws, see `few_shots`.
        run: the folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `TransferConfig`, which override the rule.

    Raises:
        UnderstudyError: data, backbone and options that do not fit each other.
    """
    config = configure(TransferConfig, {**options, "shots": tuple(shots)} if shots else options, data=data,
                       backbone=backbone)  # fmt: skip
    objects = Overrides(data=given(data), model=module(backbone), trust_code=True)
    return start(config, objects, place(run, overwrite))


def plan(config: TransferConfig, overrides: Overrides) -> Plan:
    """The recipe that the rule resolves to on the data; of few-shot transfers, one for each draw."""
    require(config, overrides)
    if config.shots:
        return few_shots.plan(config, overrides)
    return Task.of(config, config.data, overrides).plan("transfer")


def start(config: TransferConfig, overrides: Overrides, place: Place) -> Run | RunCollection:
    if config.shots:
        return few_shots.start(config, overrides, place)
    planned = plan(config, overrides)
    return runner.start(
        Train(planned.recipes["transfer"], planned.overrides), place.run, overwrite=place.overwrite,
        command=place.command, notes=planned.notes, verb="transfer",
    )  # fmt: skip
