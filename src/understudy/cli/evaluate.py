"""`understudy evaluate`."""

from __future__ import annotations

from typing import Literal

from understudy.cli.flags import DataRoot, Download, Size, TrustCode
from understudy.cli.show import show_facts
from understudy.files import path_of
from understudy.terminal import Terminal


def evaluate(
    target: str,
    data: str,
    /,
    *,
    teacher: tuple[str, ...] = (),
    split: Literal["test", "validation", "train"] = "test",
    class_bias: tuple[str, ...] = (),
    data_root: DataRoot = None,
    download: Download = False,
    size: Size = None,
    pair: tuple[str, ...] = (),
    trust_code: TrustCode = False,
    out: str | None = None,
) -> None:
    """Measure accuracy, calibration, and agreement with a teacher.

    Parameters
    ----------
    target
        A run folder or a weights file.
    data
        A data set's name, a folder, a zip, a CSV or a parquet file.
    teacher
        Run folders or weights files to compare with; several make an ensemble.
    split
        Part of the data; validation is the data's own, or what the run held out from the training part.
    class_bias
        Add to the logit of a class first, as in 3=+3.5.
    pair
        A second modality of the same samples, as in depth=FOLDER.
    out
        Write a page into this folder.
    """
    from understudy.config.options import parse_pairs
    from understudy.verbs.evaluate import evaluate as verb

    show_facts(
        verb(
            target, data, teacher=teacher, split=split, class_bias=class_bias, data_root=data_root, download=download,
            size=size, pair=parse_pairs(pair), trust_code=trust_code, out=out,
        )
    )  # fmt: skip
    if out is not None:
        Terminal().say(f"report: {path_of(out, 'the --out folder') / 'report.html'}")
