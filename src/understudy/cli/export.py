"""`understudy export`."""

from __future__ import annotations

from typing import Annotated, Literal

from understudy.cli.flags import FLAG, DataRoot, Download, Size, TrustCode, Whole
from understudy.terminal import Terminal


def export(
    target: str,
    /,
    *,
    format: tuple[str, ...] = ("onnx",),
    preprocessing: Literal["embedded", "external"] = "embedded",
    embedding: Annotated[bool, FLAG] = False,
    network: str | None = None,
    data: str | None = None,
    calibrate: Whole = 256,
    tolerance: float = 2.0,
    out: str | None = None,
    license: str | None = None,
    data_root: DataRoot = None,
    download: Download = False,
    size: Size = None,
    pair: tuple[str, ...] = (),
    trust_code: TrustCode = False,
) -> None:
    """Write a network as files that run elsewhere, each verified on the whole test split.

    Parameters
    ----------
    target
        A run folder or a weights file.
    format
        onnx, torch (a torch.export program), int8 (quantized ONNX), openvino, litert, litert-int8, executorch, coreml,
        web (a page that classifies images in the browser), or several of them.
    preprocessing
        embedded: the file takes images as they are stored. external: it takes them resized and normalized.
    embedding
        Export the embedding, normalized to unit length, in place of the logits.
    network
        Which of the run's networks, as in distilled-crd-1; default: the one that predict uses.
    data
        What to verify and calibrate on: a data set's name, a folder, a zip, a CSV or a parquet file; default: the
        run's own.
    calibrate
        Number of training samples for the calibration of 8-bit files.
    tolerance
        Points of test accuracy that 8-bit files may lose.
    out
        The folder; default: RUN/export.
    license
        License of the model, for its card, as in apache-2.0.
    pair
        A second modality of the same samples, as in depth=FOLDER.
    """
    from understudy.config.options import parse_pairs
    from understudy.reporting.export import export_table
    from understudy.verbs.export import export as verb

    done = verb(
        target, format=format, preprocessing=preprocessing, embedding=embedding, network=network, data=data,
        calibrate=calibrate, tolerance=tolerance, out=out, license=license, data_root=data_root, download=download,
        size=size, pair=parse_pairs(pair), trust_code=trust_code,
    )  # fmt: skip
    terminal = Terminal()
    terminal.print(export_table(done.name, done.facts))
    terminal.say(f"model card: {done.path / 'README.md'}")
    if done.page is not None:
        terminal.say(f"page: {done.page}")
