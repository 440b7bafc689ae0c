"""`understudy benchmark`."""

from __future__ import annotations

import sys
from typing import Literal

from understudy.cli.flags import DataRoot, Download, Size, TrustCode, Whole
from understudy.cli.show import show_facts
from understudy.terminal import Terminal


def benchmark(
    target: str,
    data: str | None = None,
    /,
    *,
    formats: tuple[str, ...] = ("all",),
    threads: tuple[Whole, ...] = (1,),
    network: str | None = None,
    preprocessing: Literal["embedded", "external"] = "embedded",
    out: str | None = None,
    data_root: DataRoot = None,
    download: Download = False,
    size: Size = None,
    pair: tuple[str, ...] = (),
    trust_code: TrustCode = False,
) -> None:
    """Put a network's formats side by side: size, latency, accuracy, agreement.

    Parameters
    ----------
    target
        A run folder or a weights file.
    data
        A data set's name, a folder, a zip, a CSV or a parquet file; default: the run's own.
    formats
        As for export; all: those that are installed and run here.
    threads
        Numbers of CPU threads to time with, as in 1 4; 0 for one per core.
    network
        Which of the run's networks, as in distilled-crd-1; default: the one that predict uses.
    preprocessing
        embedded: the files take images as they are stored. external: they take them resized and normalized.
    out
        The folder; default: RUN/benchmark.
    pair
        A second modality of the same samples, as in depth=FOLDER.
    """
    from understudy.config.options import parse_pairs
    from understudy.verbs.benchmark import benchmark as verb

    done = verb(
        target, data, formats=formats, threads=threads, network=network, preprocessing=preprocessing, out=out,
        data_root=data_root, download=download, size=size, pair=parse_pairs(pair), trust_code=trust_code,
        command=("understudy", *sys.argv[1:]),
    )  # fmt: skip
    show_facts(done.facts)
    Terminal().say(f"report: {done.report}")
