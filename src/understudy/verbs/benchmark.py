"""`benchmark`: one network in every format, by size, latency, accuracy and agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from understudy.config.places import shown
from understudy.data.loader import in_order
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import BenchmarkFacts, FileFacts, OriginalFacts, ThreadsFacts
from understudy.exporters import CALIBRATE, FORMATS, ExportedFile, check_formats, export_network, interface_of
from understudy.exporters.interface import exported_module
from understudy.exporters.verify import benchmark as time_runners
from understudy.files import new_folder, write_whole
from understudy.models import as_float, fold
from understudy.pipeline.evaluate import hardware
from understudy.pipeline.run import versions
from understudy.reporting import render
from understudy.runs.folder import EVALUATION, REPORT
from understudy.verbs.arguments import check_whole
from understudy.verbs.export import Subject, open_subject

ALL = "all"


@dataclass(frozen=True)
class Benchmark:
    """What was measured, and where its page is: `path` has the files, evaluation.json and report.html."""

    path: Path
    facts: BenchmarkFacts

    @property
    def report(self) -> Path:
        return self.path / REPORT


def benchmark(
    target: str | Path,
    data: object | None = None,
    *,
    formats: str | Sequence[str] = ALL,
    threads: int | Sequence[int] = (1,),
    network: str | None = None,
    preprocessing: str = "embedded",
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    size: int | None = None,
    pair: Mapping[str, str] | None = None,
    trust_code: bool = False,
    command: Sequence[str] = (),
) -> Benchmark:
    """Export a network to several formats, check each on the whole test split, and time them side by side.

    8-bit files are measured whatever they lose. Times are medians of warm, interleaved runs of one sample.

    Args:
        target: a run folder, or a weights file.
        data: whatever `open_source` opens, with a test split; default: the run's own.
        formats: of `exporters.FORMATS`; "all": those whose packages are installed and that this system can run, where
            one that cannot hold the network is left out, with the reason.
        threads: numbers of CPU threads to time with, 0 for one per core.
        network, preprocessing, data_root, download, size, pair, trust_code: as for `export`.
        out: the folder; default: RUN/benchmark, or benchmark/ beside the weights file.
        command: what was typed, for the page.

    Raises:
        UnderstudyError: whatever `export` raises.
    """
    counts = tuple(dict.fromkeys([threads] if isinstance(threads, int) else threads))
    for count in counts:
        check_whole("threads", count, least=0)
    asked = tuple(dict.fromkeys([formats] if isinstance(formats, str) else formats))
    everything = ALL in asked
    if not everything:
        check_formats(asked, (*FORMATS, ALL))
    folder = None if out is None else new_folder(out, "the --out folder")
    of = open_subject(
        target, network, data, data_root=data_root, download=download, size=size, pair=pair, trust_code=trust_code
    )
    folder = folder or (of.file.parent if of.run is None else of.run.path) / "benchmark"
    interface_of(of.network, of.test, preprocessing)  # raises where it does not suit the data
    files, left_out = list[ExportedFile](), dict[str, str]()
    for name in FORMATS if everything else asked:
        try:
            files += _exported(of, name, folder, preprocessing)
        except UnderstudyError as error:
            if not everything:
                raise
            left_out[name] = str(error)
    if not files:
        raise UnderstudyError(f"no format could be written; the first: {next(iter(left_out.values()))}")
    original = files[0].original
    facts = BenchmarkFacts(
        name=of.name, data=shown(of.test.name), examples=len(of.test), hardware=hardware(), command=list(command),
        versions=versions() | _versions(files),
        original=OriginalFacts(bytes=original.bytes, accuracy=original.accuracy, latency_ms=original.latency_ms),
        files=[FileFacts.from_json(one.to_json()) for one in files],
        timed=[_timed(of, files, preprocessing, count) for count in counts], left_out=left_out,
    )  # fmt: skip
    write_whole(folder / EVALUATION, facts.model_dump_json() + "\n")
    write_whole(folder / REPORT, render(facts, folder))
    return Benchmark(folder, facts)


def _exported(of: Subject, name: str, folder: Path, preprocessing: str) -> list[ExportedFile]:
    """The network in one format, checked.

    Raises:
        UnderstudyError: it lacks packages, cannot run here, or cannot hold the network.
    """
    check_formats((name,), tuple(FORMATS))
    if not FORMATS[name].runs_here:
        raise UnderstudyError(f"{FORMATS[name].label} runs on {' or '.join(FORMATS[name].systems)} only; leave it out")
    return export_network(
        of.network, of.test, of.train, (name,), folder,
        preprocessing=preprocessing, calibrate=CALIBRATE, tolerance=100.0,
    )  # fmt: skip


def _timed(of: Subject, files: Sequence[ExportedFile], preprocessing: str, threads: int) -> ThreadsFacts:
    """The latencies with so many threads, all in one benchmark."""
    interface = interface_of(of.network, of.test, preprocessing)
    runners = {one.format: FORMATS[one.format].load(one.file, threads) for one in files}
    runners["original"] = exported_module(interface, fold(as_float(of.network)))
    batch = next(batch for batch in in_order(of.test, 1, torch.device("cpu")) if len(batch))
    sample = interface.convert(batch.inputs, of.network)
    times = time_runners(runners, sample, threads or torch.get_num_threads())
    return ThreadsFacts(
        threads=threads, latency_ms={name: ms for name, (ms, _) in times.items()},
        latency_p90_ms={name: p90 for name, (_, p90) in times.items()},
    )  # fmt: skip


def _versions(files: Sequence[ExportedFile]) -> dict[str, str]:
    """Those of the packages that wrote and ran the files."""
    names = dict.fromkeys(package.replace("_", "-") for one in files for package in FORMATS[one.format].packages)
    return {name: metadata.version(name) for name in names}
