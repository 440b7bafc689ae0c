"""`export_network`: export a network to files, each verified before it is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import torch

from understudy.data import Source
from understudy.data.loader import in_order
from understudy.data.modalities import check_modality
from understudy.errors import UnderstudyError, nearest
from understudy.evaluation import file_size
from understudy.exporters import coreml, executorch, int8, litert, onnx, openvino, torch_export
from understudy.exporters.format import Format
from understudy.exporters.interface import Interface, exported_module, interface_of
from understudy.exporters.job import Calibration, Job
from understudy.exporters.verify import benchmark, compute_outputs, verify_float, verify_int8
from understudy.exporters.web.runtime import archive
from understudy.files import replace_path, write_whole
from understudy.models import Network, activation_ranges, as_float, eval_mode, fold
from understudy.randomness import name_key, permutation

CALIBRATE, TOLERANCE = 256, 2.0


@dataclass(frozen=True)
class Measurement:
    """Size, accuracy and latency of the network in PyTorch or of an exported file."""

    bytes: int  # size of the exported file, or of the weights file of the network
    accuracy: float | None  # on the test split; None without labels
    latency_ms: float  # median of one sample on one thread, from one interleaved benchmark; NaN if it was not run
    latency_p90_ms: float


@dataclass(frozen=True)
class ExportedFile(Measurement):
    """An exported file that was loaded back and verified against the network, where it can be run."""

    format: str  # one of `FORMATS`
    file: Path
    agreement: float  # fraction of test samples for which it predicts the same class as the network
    worst_difference: float  # largest absolute difference of a logit from that of the network, on the test split
    original: Measurement  # of the network it was exported from, in PyTorch
    parts: tuple[str, ...] = ()  # names in the folder: the file, and those that belong to it

    @property
    def checked(self) -> bool:
        """Whether it was run; a format that this system cannot run has NaN for what would have been measured."""
        return not isnan(self.agreement)

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        del fields["original"]
        return fields | {"file": self.file.name}


FORMATS: dict[str, Format] = {
    "onnx": onnx.FORMAT,
    "torch": torch_export.FORMAT,
    "int8": int8.FORMAT,
    "openvino": openvino.FORMAT,
    "litert": litert.FORMAT,
    "litert-int8": litert.INT8,
    "executorch": executorch.FORMAT,
    "coreml": coreml.FORMAT,
}
WEB = "web"
"""The format of a page that holds one of the ONNX files, and is written after them."""


def check_formats(formats: Sequence[str], known: Sequence[str] = (*FORMATS, WEB)) -> None:
    """Raise UnderstudyError for an unknown format, or one whose packages are not installed and cannot be downloaded.

    >>> check_formats(["onxx"])
    Traceback (most recent call last):
        ...
    understudy.errors.UnderstudyError: unknown format 'onxx'; did you mean 'onnx'?
    """
    for name in formats:
        if name not in known:
            raise UnderstudyError(f"unknown format {name!r}{nearest(str(name), known)}")
    for name in file_formats(formats):
        FORMATS[name].check_installed()
    if WEB in formats:
        archive()


def file_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats of files among those that were asked for, with an ONNX file for the page.

    >>> file_formats(["web"]), file_formats(["torch", "web"]), file_formats(["int8", "web"])
    (('onnx',), ('torch', 'onnx'), ('int8',))
    """
    files = tuple(name for name in formats if name != WEB)
    lacks = WEB in formats and not any(FORMATS[name].onnx for name in files)
    return (*files, "onnx") if lacks else files


def export_network(
    network: Network,
    test: Source,
    calibration: Source | None,
    formats: Sequence[str],
    folder: Path,
    *,
    preprocessing: str = "embedded",
    calibrate: int = CALIBRATE,
    tolerance: float = TOLERANCE,
) -> list[ExportedFile]:
    """Export a network, load each file back, and verify it against the network on a whole source.

    Either all files are moved into `folder` at the end, or none is.

    Args:
        network: On the CPU.
        test: Source to verify and measure the files on; nothing is tuned on it.
        calibration: Source of the calibration samples for int8, usually the training split.
        formats: Of `FORMATS`.
        preprocessing: "embedded" or "external"; see `Interface`.
        calibrate: Number of calibration samples.
        tolerance: Points of accuracy on `test` that int8 may lose.

    Raises:
        UnderstudyError: A file that does not match the network, an unsupported operator, no calibration samples, or a
            missing package.
    """
    check_formats(formats, tuple(FORMATS))
    interface = interface_of(network, test, preprocessing)
    rounded = [name for name in formats if not FORMATS[name].exact]
    batches = _calibration_batches(network, interface, calibration, calibrate, rounded[0]) if rounded else []
    ranges = activation_ranges(network) if network.int8 else {}
    # what is not int8 is exported, and measured, without the rounding that the network was trained with
    plain = as_float(network)
    names = {f"module.{path}.weight": one for path, one in ranges.items()}
    job = Job(fold(plain), interface, batches, names)
    with _staging(folder) as staging, eval_mode(network), eval_mode(plain):
        written = {name: dict(FORMATS[name].to_files(job)) for name in formats}
        for files in written.values():
            for file, data in files.items():
                write_whole(staging / file, data)
        paths = {name: staging / FORMATS[name].file for name in formats if FORMATS[name].runs_here}
        runners = {name: FORMATS[name].load(path, 0) for name, path in paths.items()}
        outputs = compute_outputs(network, interface, runners, test)
        exact = outputs
        if network.int8:
            exact = replace(outputs, reference=compute_outputs(plain, interface, {}, test).reference)
        for name, path in paths.items():
            if FORMATS[name].exact:
                verify_float(exact, name, path.name)
            else:
                verify_int8(outputs, name, path.name, tolerance)
        runners = {name: FORMATS[name].load(path, 1) for name, path in paths.items()}
        runners["original"] = exported_module(interface, job.network)
        batch = next(batch for batch in in_order(test, 1, torch.device("cpu")) if len(batch))
        latencies = benchmark(runners, interface.convert(batch.inputs, network))

        original = Measurement(file_size(network), outputs.accuracy(outputs.reference), *latencies["original"])
        exported = []
        for name, files in written.items():
            size, parts = sum(map(len, files.values())), tuple(sorted({file.partition("/")[0] for file in files}))
            known = {"format": name, "file": folder / FORMATS[name].file, "parts": parts, "original": original}
            if name not in paths:
                exported.append(ExportedFile(size, None, nan, nan, agreement=nan, worst_difference=nan, **known))
                continue
            of = exact if FORMATS[name].exact else outputs
            exported.append(
                ExportedFile(
                    size, outputs.accuracy(outputs.files[name]), *latencies[name], agreement=of.agreement(name),
                    worst_difference=of.worst_difference(name), **known,
                )
            )  # fmt: skip
        for part in (part for one in exported for part in one.parts):
            replace_path(staging / part, folder / part)
    return exported


def accuracy_lost(network: Network, exported: ExportedFile, source: Source) -> float:
    """By how much an exported file, with its preprocessing embedded, is less accurate than its network.

    Args:
        network: on the CPU.
        source: labeled.
    """
    interface = interface_of(network, source, "embedded")
    run = FORMATS[exported.format].load(exported.file, 0)
    with eval_mode(network):
        outputs = compute_outputs(network, interface, {exported.format: run}, source)
    score, reference = outputs.accuracy(outputs.files[exported.format]), outputs.accuracy(outputs.reference)
    assert score is not None
    assert reference is not None
    return reference - score


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as `folder`, removed on exit; so is `folder` if new and empty."""
    staging = folder / f".{os.getpid()}.partial"
    new = not folder.exists()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _calibration_batches(
    network: Network, interface: Interface, source: Source | None, count: int, name: str
) -> list[Calibration]:
    """Batches of a reproducible sample of a source, for the format of this name."""
    if source is None:
        raise UnderstudyError(f"{name} needs samples to calibrate on; pass data with a training split")
    if count < 1:
        raise UnderstudyError(f"{name} needs samples to calibrate on; --calibrate must be at least 1, not {count}")
    rows = permutation(len(source), name_key("calibration"))[:count].sort().values
    check_modality(source, network.contract.modality)
    with torch.inference_mode():
        batches = [
            Calibration(network.preprocess(batch.inputs).numpy(), interface.convert(batch.inputs, network).numpy())
            for batch in in_order(source.subset(rows), 32, torch.device("cpu"))
            if len(batch)
        ]
    if not batches:
        raise UnderstudyError(f"no calibration sample of {source.name} could be read; check its files")
    return batches
