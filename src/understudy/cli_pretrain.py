"""`understudy pretrain` on the command line. Loaded when asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from understudy.cli import print_rows, show_run
from understudy.cli_flags import (
    FLAG,
    Accelerator,
    CheckpointEvery,
    Data,
    DataRoot,
    Devices,
    Download,
    OmitClasses,
    OnlyClasses,
    Overwrite,
    Precision,
    Workers,
)
from understudy.errors import UnderstudyError

_SCALE = Parameter(group=Group("The scale", sort_key=1))
_SAMPLES = Parameter(group=Group("Samples", sort_key=2))
_MACHINE = Parameter(group=Group("Machine", sort_key=3))
_RUN = Parameter(group=Group("Run", sort_key=4))


def pretrain(
    data: Data = "",
    /,
    *,
    model: str = "bit:R50x1",
    scale: Annotated[Literal["S", "M", "L"], _SCALE] = "S",
    loss: Annotated[Literal["softmax", "sigmoid"] | None, _SCALE] = None,
    epochs: Annotated[int | None, _SCALE] = None,
    batch_size: Annotated[int, _SCALE] = 4096,
    micro_batch: Annotated[int | None, _SCALE] = None,
    size: Annotated[int, _SCALE] = 224,
    lr: Annotated[float | None, _SCALE] = None,
    weight_decay: Annotated[float | None, _SCALE] = None,
    crop: Annotated[float | None, _SCALE] = None,
    flip: Annotated[bool | None, _SCALE] = None,
    mixup: Annotated[float | None, _SCALE] = None,
    data_root: Annotated[DataRoot, _SAMPLES] = None,
    download: Annotated[Download, _SAMPLES] = False,
    only_classes: Annotated[OnlyClasses, _SAMPLES] = (),
    omit_classes: Annotated[OmitClasses, _SAMPLES] = (),
    fraction: Annotated[float | None, _SAMPLES] = None,
    validation: Annotated[float | None, _SAMPLES] = None,
    seed: Annotated[int | None, _RUN] = None,
    seeds: Annotated[int | None, _RUN] = None,
    run: Annotated[Path | None, _RUN] = None,
    overwrite: Annotated[Overwrite, _RUN] = False,
    dry_run: Annotated[bool, _RUN, FLAG] = False,
    precision: Annotated[Precision, _MACHINE] = None,
    accelerator: Annotated[Accelerator, _MACHINE] = None,
    devices: Annotated[Devices, _MACHINE] = None,
    nodes: Annotated[int | None, _MACHINE] = None,
    workers: Annotated[Workers, _MACHINE] = None,
    checkpoint_every: Annotated[CheckpointEvery, _MACHINE] = None,
) -> None:
    """Pre-train a backbone to transfer from, as Big Transfer does at its scales S, M and L.

    Parameters
    ----------
    model
        The model, as in bit:R50x1 or 'bit:R26x1?norm=bn'; a run folder or weights file to begin from.
    scale
        S: 90 epochs, softmax. M: 90 epochs, sigmoids. L: 40 epochs, sigmoids.
    loss
        One softmax over the classes, or a sigmoid for each; the scale's where unset.
    epochs
        Passes over the images in place of the scale's, the rate's falls in proportion.
    batch_size
        Images an update; the learning rate is scaled with them, 0.03 at 256.
    micro_batch
        Images a forward pass; they add up to the batch exactly. As many as are likely to fit where unset.
    size
        Pixels a side that images are cut to, and that the network reads.
    lr
        Peak learning rate, in place of the scaled one.
    weight_decay
        In place of 0.0001.
    crop
        Smallest share of an image's area that a crop keeps, in place of 0.08.
    flip
        Mirror images; colour images where unset.
    mixup
        Mix images by weights from Beta(a, a) with this a; none by the paper.
    fraction
        Share of the samples to learn from, drawn evenly over the classes.
    validation
        Share of the training part kept to watch by.
    seed
        Of the order, the views and the first weights.
    seeds
        How many to train side by side on the same batches.
    run
        The run's folder; runs/pretrain-DATA-1, -2, ... where unset.
    dry_run
        Print the resolved recipe, the sizes and the expected time, and train nothing.
    nodes
        Machines, where torchrun or SLURM started one process a device.
    """
    if not data:
        raise UnderstudyError("say what to learn from: understudy pretrain photos/ --model bit:R50x1 --scale S")
    fields: dict[str, Any] = {
        "loss": loss, "epochs": epochs, "micro_batch": micro_batch, "lr": lr, "weight_decay": weight_decay,
        "crop": crop, "flip": flip, "mixup": mixup, "data_root": data_root, "download": download or None,
        "only_classes": only_classes or None, "omit_classes": omit_classes or None, "fraction": fraction,
        "validation": validation, "seed": seed, "seeds": seeds, "precision": precision, "accelerator": accelerator,
        "devices": devices, "nodes": nodes, "workers": workers, "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    options: dict[str, Any] = {"scale": scale, "batch_size": batch_size, "size": size}
    options |= {name: value for name, value in fields.items() if value is not None}
    if dry_run:
        from understudy import api
        from understudy.pretraining import plan_pretrain
        from understudy.recipe_text import to_yaml

        plan = plan_pretrain(data, model, **options)
        print("".join(f"# {line}\n" for line in plan.told) + to_yaml(plan.recipe))
        print_rows(api.dry_run(plan.recipe, trust_code=True).items())
        return
    from understudy.pretraining import pretrain as carry_out

    place: dict[str, Any] = {"run": run, "overwrite": overwrite, "command": ["understudy", *sys.argv[1:]]}
    show_run(carry_out(data, model, **place, **options))
