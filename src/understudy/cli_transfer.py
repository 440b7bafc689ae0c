"""`understudy transfer` on the command line. Loaded when asked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter
from rich.console import Console
from rich.text import Text

from understudy.cli import print_rows, show_run
from understudy.cli_flags import (
    FLAG,
    Accelerator,
    BatchSize,
    CheckpointEvery,
    Crop,
    CropSize,
    Data,
    DataRoot,
    Devices,
    Download,
    Draws,
    Flip,
    FromScratch,
    Mixup,
    OmitClasses,
    OnlyClasses,
    Overwrite,
    Precision,
    Steps,
    UpdateBatch,
    Variant,
    WithValidation,
    Workers,
)
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.few_shots import FewShots

_RULE = Parameter(group=Group("The rule", sort_key=1))
_SHOTS = Parameter(group=Group("Few shots", sort_key=2))
_SAMPLES = Parameter(group=Group("Samples", sort_key=3))
_MACHINE = Parameter(group=Group("Machine", sort_key=4))
_RUN = Parameter(group=Group("Run", sort_key=5))


def transfer(
    data: Data = "",
    /,
    *,
    backbone: str = "",
    from_scratch: FromScratch = False,
    batch_size: Annotated[BatchSize, _RULE] = None,
    update_batch: Annotated[UpdateBatch, _RULE] = 512,
    variant: Annotated[Variant, _RULE] = "code",
    steps: Annotated[Steps, _RULE] = None,
    crop_size: Annotated[CropSize, _RULE] = None,
    test_size: Annotated[int | None, _RULE] = None,
    crop: Annotated[Crop, _RULE] = True,
    flip: Annotated[Flip, _RULE] = None,
    mixup: Annotated[Mixup, _RULE] = None,
    decay_to: Annotated[Literal["zero", "initial"] | None, _RULE] = None,
    weight_decay: Annotated[float | None, _RULE] = None,
    shots: Annotated[tuple[str, ...], _SHOTS] = (),
    draws: Annotated[Draws, _SHOTS] = 5,
    data_root: Annotated[DataRoot, _SAMPLES] = None,
    download: Annotated[Download, _SAMPLES] = False,
    only_classes: Annotated[OnlyClasses, _SAMPLES] = (),
    omit_classes: Annotated[OmitClasses, _SAMPLES] = (),
    with_validation: Annotated[WithValidation, _SAMPLES] = False,
    fraction: Annotated[float | None, _SAMPLES] = None,
    subset: Annotated[str | None, _SAMPLES] = None,
    validation: Annotated[float | None, _SAMPLES] = None,
    seed: Annotated[int | None, _RUN] = None,
    seeds: Annotated[int | None, _RUN] = None,
    run: Annotated[Path | None, _RUN] = None,
    overwrite: Annotated[Overwrite, _RUN] = False,
    dry_run: Annotated[bool, _RUN, FLAG] = False,
    precision: Annotated[Precision, _MACHINE] = None,
    accelerator: Annotated[Accelerator, _MACHINE] = None,
    devices: Annotated[Devices, _MACHINE] = None,
    workers: Annotated[Workers, _MACHINE] = None,
    checkpoint_every: Annotated[CheckpointEvery, _MACHINE] = None,
) -> None:
    """Fine-tune a pre-trained backbone by BiT-HyperRule, which takes its numbers from the data.

    Parameters
    ----------
    backbone
        A timm: or torchvision: model, which comes with its weights, a run folder or a weights file.
    test_size
        Pixels a side that the trained network reads; with --validation the size that this part prefers is reported.
    decay_to
        Weight decay to zero or to the initial weights; none by the rule.
    weight_decay
        How fast, 0.0001 where unset.
    shots
        Examples of each class, as in 1,5,10: several transfers, each from few examples.
    fraction
        Share of the samples to learn from, drawn evenly over the classes.
    subset
        A manifest of the samples to learn from, as --shots writes it.
    validation
        Share of the training part kept to watch and to choose by.
    seed
        Of the order, the views, the draws and a new network's weights.
    seeds
        How many to train side by side on the same batches.
    run
        The run's folder; runs/transfer-DATA-1, -2, ... where unset.
    dry_run
        Print the resolved recipe, the sizes and the expected time, and train nothing.
    """
    if not data:
        raise UnderstudyError("say what to learn: understudy transfer photos/ --backbone timm:resnet50")
    if not backbone:
        raise UnderstudyError("say what to begin from: --backbone timm:resnetv2_50x1_bit.goog_in21k, or a run folder")
    ways: dict[str, Any] = {
        "from_scratch": from_scratch, "batch_size": batch_size, "update_batch": update_batch, "variant": variant,
        "steps": steps, "crop_size": crop_size, "crop": crop, "flip": flip, "mixup": mixup, "decay_to": decay_to,
        "weight_decay": weight_decay,
    }  # fmt: skip
    fields: dict[str, Any] = {
        "test_size": test_size, "data_root": data_root, "download": download or None,
        "only_classes": only_classes or None, "omit_classes": omit_classes or None, "fraction": fraction,
        "with_validation": with_validation or None, "subset": subset, "validation": validation, "seed": seed,
        "seeds": seeds, "precision": precision, "accelerator": accelerator, "devices": devices, "workers": workers,
        "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    options = ways | {name: value for name, value in fields.items() if value is not None}
    place: dict[str, Any] = {"run": run, "overwrite": overwrite, "command": ["understudy", *sys.argv[1:]]}
    if dry_run:
        _show_plan(data, backbone, options)
    elif shots:
        from understudy.few_shots import few_shots

        show_draws(few_shots(data, backbone, counts(shots), draws=draws, **place, **options))
    else:
        from understudy.transferring import transfer as carry_out

        show_run(carry_out(data, backbone, **place, **options))


def counts(shots: tuple[str, ...]) -> list[int]:
    """`("1,5", "10")` -> [1, 5, 10]."""
    words = [word for text in shots for word in text.split(",") if word]
    for word in words:
        if not word.isdecimal():
            raise UnderstudyError(f"--shots takes numbers of examples, as in 1,5,10; {word!r} is none")
    return [int(word) for word in words]


def _show_plan(data: str, backbone: str, options: dict[str, Any]) -> None:
    from understudy import api
    from understudy.recipe_text import to_yaml
    from understudy.transferring import plan_transfer

    plan = plan_transfer(data, backbone, **options)
    print("".join(f"# {line}\n" for line in plan.told) + to_yaml(plan.recipe))
    print_rows(api.dry_run(plan.recipe, trust_code=True).items())


def resume_draws(folder: Path, *, trust_code: bool) -> None:
    """Go on with the draws that are not finished."""
    from understudy.few_shots import FewShots, go_on

    show_draws(go_on(FewShots(folder), trust_code=trust_code))


def show_draws(found: FewShots) -> None:
    """Print the medians, and where their page is; of torchrun's processes the first does."""
    if int(os.environ.get("RANK", "0")) > 0:
        return
    from understudy.reporting.draws import draws_table

    record = found.record
    Console().print(draws_table(record["data"], record["backbone"], [one.drawn for one in found.each]))
    Console().print(Text(f"report: {found.report}"), soft_wrap=True)
