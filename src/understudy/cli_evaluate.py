"""`understudy evaluate` on the command line. Loaded when asked for."""

from __future__ import annotations

from typing import Literal

from understudy.cli import show_facts
from understudy.cli_flags import DataRoot, Download, Size, TrustCode


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
) -> None:
    """Measure accuracy, calibration, and agreement with a teacher.

    Parameters
    ----------
    target
        A run folder or a weights file.
    data
        A set's name, a folder, a zip, a CSV or a parquet file.
    teacher
        Run folders or weights files to agree with; several make an ensemble.
    split
        The part of the data; validation is the data's own, or what the run kept of the training part.
    class_bias
        Raise a class's logit first, as in 3=+3.5.
    pair
        The same samples in another modality, as in depth=FOLDER.
    """
    from understudy import api
    from understudy.recipe import parse_pairs

    show_facts(
        api.evaluate(
            target, data, teacher=teacher, split=split, class_bias=class_bias,
            data_root=data_root, download=download, size=size, pair=parse_pairs(pair),
            trust_code=trust_code,
        )
    )  # fmt: skip
