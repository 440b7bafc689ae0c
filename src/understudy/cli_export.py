"""`understudy export` on the command line: its flags and its table. Loaded when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy.cli_flags import DataRoot, Download, Size, TrustCode

if TYPE_CHECKING:
    from understudy.exporting import Export
    from understudy.exports import Measured


def export(
    target: str,
    /,
    *,
    format: tuple[str, ...] = ("onnx",),
    preprocessing: str = "inside",
    network: str | None = None,
    data: str | None = None,
    calibrate: int = 256,
    tolerance: float = 2.0,
    out: Path | None = None,
    license: str | None = None,
    data_root: DataRoot = None,
    download: Download = False,
    size: Size = None,
    pair: tuple[str, ...] = (),
    trust_code: TrustCode = False,
) -> None:
    """Write a network as files that run elsewhere, each checked against it on the whole test split.

    Parameters
    ----------
    target
        A run folder or a weights file.
    format
        onnx, torch (a torch.export program), int8 (ONNX in 8 bits), or several of them.
    preprocessing
        inside: the file takes images as they are stored. beside: it takes them resized and normalised.
    network
        Which of the run's, as in distilled-crd-1; the one that predict uses where unset.
    data
        What to check and calibrate on: a set's name, a folder, a zip, a CSV or a parquet file; the run's own where
        unset.
    calibrate
        Training samples that int8 is calibrated on.
    tolerance
        Points of test accuracy that int8 may lose.
    out
        The folder; RUN/export where unset.
    license
        Of the model, for its card, as in apache-2.0.
    pair
        The same samples in another modality, as in depth=FOLDER.
    """
    from understudy import exporting
    from understudy.recipe import parse_pairs

    done = exporting.export(
        target, format=format, preprocessing=preprocessing, network=network, data=data, calibrate=calibrate,
        tolerance=tolerance, out=out, license=license, data_root=data_root, download=download, size=size,
        pair=parse_pairs(pair), trust_code=trust_code,
    )  # fmt: skip
    console = Console()
    console.print(export_table(done))
    console.print(Text(f"model card: {done.path / 'README.md'}"), soft_wrap=True)


def export_table(done: Export) -> Table:
    """The network in torch, and each of its files: size, time for one sample, accuracy, distance from the network."""
    from understudy.reporting.wording import MISSING, compact, moment

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.caption = Text(f"{done.name}; one sample on one thread, median and 90th percentile of one interleaved run")
    table.caption_justify = "left"
    table.add_column("file", no_wrap=True)
    for head in ("size", "latency", "p90", "accuracy", "agreement", "worst Δ"):
        table.add_column(head, justify="right", no_wrap=True)

    def cells(one: Measured) -> list[str]:
        accuracy = MISSING if one.accuracy is None else f"{one.accuracy:.2%}"
        return [compact(one.bytes, "B"), moment(one.latency_ms), moment(one.latency_p90_ms), accuracy]

    table.add_row("in torch", *cells(done.files[0].original), MISSING, MISSING, style="dim")
    for one in done.files:
        table.add_row(Text(one.file.name), *cells(one), f"{one.agreement:.2%}", f"{one.worst_difference:.2g}")
    return table
