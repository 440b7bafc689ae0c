"""`export_network`: export a network to files, each verified before it is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from understudy.data import Source
from understudy.data.loader import in_order
from understudy.data.modalities import check_modality
from understudy.errors import UnderstudyError, nearest
from understudy.evaluation import file_size
from understudy.exporters import int8, onnx, torch_export
from understudy.exporters.interface import (
    EMBEDDING,
    OUTPUT,
    CoreModel,
    Interface,
    Preprocessor,
    exported_module,
    interface_of,
)
from understudy.exporters.verify import Runner, benchmark, compute_outputs, verify_float, verify_int8
from understudy.exporters.web.runtime import archive
from understudy.files import write_whole
from understudy.models import Network, Ranges, activation_ranges, as_float, eval_mode, fold
from understudy.randomness import name_key, permutation

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATE, TOLERANCE = 256, 2.0


@dataclass(frozen=True)
class Measurement:
    """Size, accuracy and latency of the network in PyTorch or of an exported file."""

    bytes: int  # size of the exported file, or of the weights file of the network
    accuracy: float | None  # on the test split; None without labels
    latency_ms: float  # median of one sample on one thread, from one interleaved benchmark
    latency_p90_ms: float


@dataclass(frozen=True)
class ExportedFile(Measurement):
    """An exported file that was loaded back and verified against the network."""

    format: str  # one of `FORMATS`
    file: Path
    agreement: float  # fraction of test samples for which it predicts the same class as the network
    worst_difference: float  # largest absolute difference of a logit from that of the network, on the test split
    original: Measurement  # of the network it was exported from, in PyTorch

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        del fields["original"]
        return fields | {"file": self.file.name}


@dataclass(frozen=True)
class Job:
    """The inputs of an export, and intermediate models that several formats share."""

    network: Network  # folded
    interface: Interface
    batches: Sequence[np.ndarray]  # normalized samples for calibration, (B, *contract.shape) each
    ranges: Mapping[str, Ranges] = field(default_factory=dict)  # trained ones, by the name of a layer's weight

    @property
    def name(self) -> str:
        return self.network.spec or "the network"

    @cached_property
    def core(self) -> ModelProto:
        """The network without preprocessing."""
        module = CoreModel(self.network).eval().requires_grad_(False)
        sample = torch.zeros(2, *self.interface.contract.shape)
        output = OUTPUT if self.network.classes else EMBEDDING
        return onnx.to_onnx(torch_export.trace(module, sample, self.name), self.name, output)

    @cached_property
    def preprocessor(self) -> ModelProto | None:
        """The embedded preprocessing; None if it is external."""
        if self.interface.preprocessing == "external":
            return None
        return onnx.to_onnx(self._trace(Preprocessor(self.interface, self.network)), self.name)

    def to_onnx(self) -> bytes:
        return self._serialize(self.core)

    def to_int8(self) -> bytes:
        return self._serialize(int8.quantize(self.core, self.batches, self.ranges))

    def to_torch(self) -> bytes:
        program = self._trace(exported_module(self.interface, self.network))
        return torch_export.program_bytes(program, self.interface.metadata(self.name))

    def _serialize(self, core: ModelProto) -> bytes:
        model = core if self.preprocessor is None else onnx.chain_models(self.preprocessor, core)
        return onnx.onnx_bytes(model, self.interface.metadata(self.name))

    def _trace(self, module: nn.Module) -> torch.export.ExportedProgram:
        """Trace a module that takes the input of the file."""
        sample = torch.zeros(2, *self.interface.shape, dtype=self.interface.dtype)
        return torch_export.trace(module, sample, self.name)


@dataclass(frozen=True)
class Format:
    """An export format."""

    file: str
    to_bytes: Callable[[Job], bytes]
    load: Callable[[Path, int], Runner]  # (path, number of threads) -> a function from inputs of the file to logits
    exact: bool = True  # whether the logits must equal those of the network up to rounding
    needs_onnx: bool = True


FORMATS = {
    "onnx": Format("model.onnx", Job.to_onnx, onnx.load_onnx),
    "torch": Format("model.pt2", Job.to_torch, torch_export.load_program, needs_onnx=False),
    "int8": Format("model-int8.onnx", Job.to_int8, onnx.load_onnx, exact=False),
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
    if any(name == WEB or FORMATS[name].needs_onnx for name in formats):
        onnx.check_installed()
    if WEB in formats:
        archive()


def file_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats of files among those that were asked for, with an ONNX file for the page.

    >>> file_formats(["web"]), file_formats(["torch", "web"]), file_formats(["int8", "web"])
    (('onnx',), ('torch', 'onnx'), ('int8',))
    """
    files = tuple(name for name in formats if name != WEB)
    lacks = WEB in formats and not any(FORMATS[name].needs_onnx for name in files)
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
    batches = _calibration_batches(network, calibration, calibrate) if "int8" in formats else []
    ranges = activation_ranges(network) if network.int8 else {}
    # what is not int8 is exported, and measured, without the rounding that the network was trained with
    plain = as_float(network)
    names = {f"module.{path}.weight": one for path, one in ranges.items()}
    job = Job(fold(plain), interface, batches, names)
    with _staging(folder) as staging, eval_mode(network), eval_mode(plain):
        paths = {name: staging / FORMATS[name].file for name in formats}
        for name, path in paths.items():
            write_whole(path, FORMATS[name].to_bytes(job))
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
        exported = [
            ExportedFile(
                path.stat().st_size,
                outputs.accuracy(outputs.files[name]),
                *latencies[name],
                format=name,
                file=folder / path.name,
                agreement=(exact if FORMATS[name].exact else outputs).agreement(name),
                worst_difference=(exact if FORMATS[name].exact else outputs).worst_difference(name),
                original=original,
            )
            for name, path in paths.items()
        ]
        for path in paths.values():
            os.replace(path, folder / path.name)
    return exported


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


def _calibration_batches(network: Network, source: Source | None, count: int) -> list[np.ndarray]:
    """Normalized batches of a reproducible sample of a source."""
    if source is None:
        raise UnderstudyError("int8 needs samples to calibrate on; pass data with a training split")
    if count < 1:
        raise UnderstudyError(f"int8 needs samples to calibrate on; --calibrate must be at least 1, not {count}")
    rows = permutation(len(source), name_key("calibration"))[:count].sort().values
    check_modality(source, network.contract.modality)
    with torch.inference_mode():
        batches = [
            network.preprocess(batch.inputs).numpy()
            for batch in in_order(source.subset(rows), 32, torch.device("cpu"))
            if len(batch)
        ]
    if not batches:
        raise UnderstudyError(f"no calibration sample of {source.name} could be read; check its files")
    return batches
