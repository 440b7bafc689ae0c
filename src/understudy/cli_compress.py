"""`understudy compress` on the command line. Loaded when asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from rich.console import Console
from rich.text import Text

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

if TYPE_CHECKING:
    from understudy.compressing import Compression

_SCHEDULE = Parameter(group=Group("Schedule", sort_key=1))
_SIZES = Parameter(group=Group("Sizes", sort_key=2))
_SAMPLES = Parameter(group=Group("Samples", sort_key=3))
_RUN = Parameter(group=Group("Run", sort_key=4))
_MACHINE = Parameter(group=Group("Machine", sort_key=5))


def compress(
    data: Data = "",
    /,
    *,
    backbone: tuple[str, ...] = (),
    student: str = "",
    transfer_set: str | None = None,
    format: tuple[str, ...] = ("onnx", "int8"),
    from_scratch: Annotated[bool, FLAG] = False,
    budget: Annotated[str | None, _SCHEDULE] = None,
    steps: Annotated[int | None, _SCHEDULE] = None,
    teacher_steps: Annotated[int | None, _SCHEDULE] = None,
    crop_size: Annotated[int | None, _SIZES] = None,
    student_size: Annotated[int | None, _SIZES] = None,
    batch_size: Annotated[int | None, _SIZES] = None,
    size: Annotated[int | None, _SAMPLES] = None,
    only_classes: Annotated[OnlyClasses, _SAMPLES] = (),
    omit_classes: Annotated[OmitClasses, _SAMPLES] = (),
    data_root: Annotated[DataRoot, _SAMPLES] = None,
    download: Annotated[Download, _SAMPLES] = False,
    seed: Annotated[int | None, _RUN] = None,
    run: Annotated[Path | None, _RUN] = None,
    overwrite: Annotated[Overwrite, _RUN] = False,
    precision: Annotated[Precision, _MACHINE] = None,
    accelerator: Annotated[Accelerator, _MACHINE] = None,
    devices: Annotated[Devices, _MACHINE] = None,
    workers: Annotated[Workers, _MACHINE] = None,
    checkpoint_every: Annotated[CheckpointEvery, _MACHINE] = None,
) -> None:
    """Transfer a backbone to your images, distil it into a small model, export that, and show what was gained.

    Parameters
    ----------
    backbone
        A timm: or torchvision: model, which comes with its weights, a run folder or a weights file; several make an
        ensemble of teachers.
    student
        The small model, as in timm:mobilenetv3_small_100 or cnn:16-32-64.
    transfer_set
        Images to distil on beside those of the data; they need no labels.
    format
        The files to write: onnx, int8, torch.
    from_scratch
        Take a backbone without pre-trained weights.
    budget
        Time for all stages, as in 30m or 1h30m; their steps are chosen by measuring a few. Without one the teacher has
        the rule's schedule and the student 200 passes over the images.
    steps
        Updates of the student, in place of 200 passes.
    teacher_steps
        Updates of the teacher, in place of the rule's.
    crop_size
        Pixels a side that the teacher reads, in place of the rule's. A CPU is slow at 480.
    student_size
        Pixels a side that the student reads; those of the images, at most 224, where unset.
    batch_size
        Images of a forward pass of the teacher; they add up to the rule's batch exactly.
    size
        Pixels a side that images are brought to first.
    seed
        Of the order, the views and the student's weights.
    run
        The folder; runs/compress-DATA-1, -2, ... where unset. The same command again goes on where it was stopped.
    """
    if not data:
        raise UnderstudyError("say what to learn: understudy compress photos/ --backbone ... --student ...")
    if not backbone:
        raise UnderstudyError("say what to begin from: --backbone timm:resnetv2_50x1_bit.goog_in21k, or a run folder")
    if not student:
        raise UnderstudyError("say what to make of it: --student timm:mobilenetv3_small_100, or cnn:16-32-64")
    from understudy.compressing import compress as carry_out

    shared: dict[str, Any] = {
        "data_root": data_root, "download": download or None, "size": size, "only_classes": only_classes or None,
        "omit_classes": omit_classes or None, "seed": seed, "precision": precision, "accelerator": accelerator,
        "devices": devices, "workers": workers, "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    found = carry_out(
        data, backbone, student, transfer_set=transfer_set, budget=budget, format=format, steps=steps,
        teacher_steps=teacher_steps, crop_size=crop_size, student_size=student_size, batch_size=batch_size,
        from_scratch=from_scratch, run=run, overwrite=overwrite, command=["understudy", *sys.argv[1:]],
        **{name: value for name, value in shared.items() if value is not None},
    )  # fmt: skip
    show(found)


def resume_stages(folder: Path, *, trust_code: bool) -> None:
    """Go on with the stages that are not finished."""
    from understudy.compressing import Compression, go_on

    found = Compression(folder)
    if found.finished:
        raise UnderstudyError(f"{folder} is finished; its page is {found.report}")
    show(go_on(found, trust_code=trust_code))


def show(found: Compression) -> None:
    """Print the models and files, and where their page is."""
    from understudy.reporting.compressed import cautions, compressed_table, lines

    record, console = found.record, Console()
    console.print(compressed_table(lines(found.rows, record["latency_ms"], record["export"])))
    if found.foreseen is not None:
        console.print(Text(found.foreseen.sentence))
    for caution in cautions(found.rows):
        console.print(Text(caution, style="yellow"))
    console.print(Text(f"page: {found.report}"), soft_wrap=True)
    console.print(Text(f"files: {found.path / record['export']['folder']}"), soft_wrap=True)
