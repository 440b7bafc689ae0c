"""`understudy suite` on the command line. Loaded when asked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from rich.console import Console
from rich.text import Text

from understudy.cli_flags import (
    FLAG,
    Accelerator,
    BatchSize,
    CheckpointEvery,
    Crop,
    CropSize,
    DataRoot,
    Devices,
    Download,
    Draws,
    Flip,
    FromScratch,
    Mixup,
    Overwrite,
    Precision,
    Steps,
    UpdateBatch,
    Variant,
    WithValidation,
    Workers,
)
from understudy.cli_transfer import counts
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.suiting import Suite

_RULE = Parameter(group=Group("The rule", sort_key=1))
_SAMPLES = Parameter(group=Group("Samples", sort_key=2))
_MACHINE = Parameter(group=Group("Machine", sort_key=3))
_RUN = Parameter(group=Group("Run", sort_key=4))


def suite(
    *data: str,
    backbone: str = "",
    from_scratch: FromScratch = False,
    shots: Annotated[tuple[str, ...], _SAMPLES] = (),
    draws: Annotated[Draws, _SAMPLES] = 5,
    vtab: Annotated[bool, _SAMPLES, FLAG] = False,
    with_validation: Annotated[WithValidation, _SAMPLES] = False,
    data_root: Annotated[DataRoot, _SAMPLES] = None,
    download: Annotated[Download, _SAMPLES] = False,
    batch_size: Annotated[BatchSize, _RULE] = None,
    update_batch: Annotated[UpdateBatch, _RULE] = 512,
    variant: Annotated[Variant, _RULE] = "code",
    steps: Annotated[Steps, _RULE] = None,
    crop_size: Annotated[CropSize, _RULE] = None,
    crop: Annotated[Crop, _RULE] = True,
    flip: Annotated[Flip, _RULE] = None,
    mixup: Annotated[Mixup, _RULE] = None,
    seed: Annotated[int | None, _RUN] = None,
    seeds: Annotated[int | None, _RUN] = None,
    run: Annotated[Path | None, _RUN] = None,
    overwrite: Annotated[Overwrite, _RUN] = False,
    precision: Annotated[Precision, _MACHINE] = None,
    accelerator: Annotated[Accelerator, _MACHINE] = None,
    devices: Annotated[Devices, _MACHINE] = None,
    workers: Annotated[Workers, _MACHINE] = None,
    checkpoint_every: Annotated[CheckpointEvery, _MACHINE] = None,
) -> int:
    """Transfer one backbone to many tasks by BiT-HyperRule; one table. The exit code is 1 if a task failed.

    Parameters
    ----------
    data
        The tasks: sets by name (see understudy datasets), folders of class folders, zips, CSVs or parquet files.
    backbone
        A timm: or torchvision: model, which comes with its weights, a run folder or a weights file.
    shots
        Examples of each class, as in 1,5,10: several transfers of each task, each from few examples.
    vtab
        Learn from 1,000 examples of each task, 800 and 200, as VTAB-1k does.
    seed
        Of the order, the views, the draws and a new network's weights.
    seeds
        How many to train side by side on the same batches.
    run
        The suite's folder; runs/suite-BACKBONE-1, -2, ... where unset. The same folder again goes on where it stopped.
    """
    if not data:
        raise UnderstudyError("say what to learn: understudy suite digits photos/ --backbone timm:resnet50")
    if not backbone:
        raise UnderstudyError("say what to begin from: --backbone timm:resnetv2_50x1_bit.goog_in21k, or a run folder")
    chosen: dict[str, Any] = {
        "from_scratch": from_scratch or None, "with_validation": with_validation or None, "data_root": data_root,
        "download": download or None, "batch_size": batch_size, "update_batch": update_batch, "variant": variant,
        "steps": steps, "crop_size": crop_size, "crop": crop, "flip": flip, "mixup": mixup, "seed": seed,
        "seeds": seeds, "precision": precision, "accelerator": accelerator, "devices": devices, "workers": workers,
        "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    options = {name: value for name, value in chosen.items() if value is not None}
    from understudy.suiting import suite as carry_out

    place: dict[str, Any] = {"run": run, "overwrite": overwrite, "command": ["understudy", *sys.argv[1:]]}
    return _show(carry_out(data, backbone, shots=counts(shots), draws=draws, vtab=vtab, **place, **options))


def resume_suite(folder: Path, *, trust_code: bool) -> int:
    """Do the tasks that are not finished."""
    from understudy.suiting import Suite, go_on

    return _show(go_on(Suite(folder), trust_code=trust_code))


def _show(found: Suite) -> int:
    """Print the table, what failed and why, and where the page is; of torchrun's processes the first does."""
    failed = found.failed
    if int(os.environ.get("RANK", "0")) == 0:
        from understudy.reporting.suite import suite_table

        Console().print(suite_table(found.asked.backbone, found.rows))
        for name, reason in failed.items():
            Console().print(Text(f"{name} failed: {reason}", "yellow"), soft_wrap=True)
        Console().print(Text(f"report: {found.report}"), soft_wrap=True)
    return 1 if failed else 0
