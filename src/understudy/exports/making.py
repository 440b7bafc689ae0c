"""`export_network`: a network's files, each checked before it gets its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.contracts import check_seen
from understudy.data import Source
from understudy.data.batches import in_order
from understudy.errors import UnderstudyError, nearest
from understudy.evaluation import file_size
from understudy.exports import int8, onnx_files, torch_files
from understudy.exports.checking import Answers, Latency, Runner, answers, check_float, check_int8, race
from understudy.exports.form import Answering, Form, Preparing, form_of, whole
from understudy.files import write_whole
from understudy.models import Network, fold
from understudy.models.network import at_rest
from understudy.randomness import name_key, permutation

CALIBRATE, TOLERANCE = 256, 2.0


@dataclass(frozen=True)
class Measured:
    """What answers of one kind scored: the network's own in torch, or a file's.

    Attributes:
        bytes: of the file; of the network's own weights file.
        accuracy: on the test split; None without labels.
        latency_ms, latency_p90_ms: for one sample on one thread, median and 90th percentile of one interleaved run.
    """

    bytes: int
    accuracy: float | None
    latency_ms: float
    latency_p90_ms: float


@dataclass(frozen=True)
class Exported(Measured):
    """A file that was loaded back, held against its network, and kept.

    Attributes:
        format: one of `FORMATS`.
        file: where it is.
        agreement: share of the test split of which it names the network's class.
        worst_difference: of a logit from the network's, on the test split.
        original: the network it was made from.
    """

    format: str
    file: Path
    agreement: float
    worst_difference: float
    original: Measured

    def to_json(self) -> dict[str, Any]:
        own = asdict(self)
        del own["original"]
        return own | {"file": self.file.name}


@dataclass(frozen=True)
class Job:
    """What files are made from.

    Attributes:
        network: folded.
        batches: normalised samples to calibrate on, (B, *contract.shape) each.
    """

    network: Network
    form: Form
    batches: Sequence[np.ndarray]

    @property
    def who(self) -> str:
        return self.network.spec or "the network"

    @property
    def metadata(self) -> dict[str, str]:
        return self.form.metadata(self.who)

    def blank(self) -> Tensor:
        return torch.zeros(2, *self.form.shape, dtype=self.form.dtype)

    @cached_property
    def core(self) -> Any:
        """The network without its pre-processing, as an ONNX model."""
        sample = torch.zeros(2, *self.form.contract.shape)
        traced = torch_files.program(Answering(self.network).eval().requires_grad_(False), sample, self.who)
        return onnx_files.to_onnx(traced, self.who)

    def with_preparing(self, core: Any) -> Any:
        """An ONNX model with the pre-processing before it that the form asks for."""
        if self.form.preprocessing == "beside":
            return core
        traced = torch_files.program(Preparing(self.form, self.network), self.blank(), self.who)
        return onnx_files.joined(onnx_files.to_onnx(traced, self.who), core)


def _onnx(job: Job) -> bytes:
    return onnx_files.onnx_bytes(job.with_preparing(job.core), job.metadata)


def _int8(job: Job) -> bytes:
    small = int8.to_int8(job.core, job.batches)
    return onnx_files.onnx_bytes(job.with_preparing(small), job.metadata)


def _torch(job: Job) -> bytes:
    traced = torch_files.program(whole(job.form, job.network), job.blank(), job.who)
    return torch_files.program_bytes(traced, job.metadata)


def _run_torch(path: Path, threads: int) -> Runner:
    return torch.export.load(path).module()


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        file: its name in the folder.
        make: its bytes.
        run: (path, threads) -> what answers a batch as the file takes it.
        exact: whether its answers are to be the network's but for rounding.
        onnx: whether it needs the packages for ONNX.
    """

    file: str
    make: Callable[[Job], bytes]
    run: Callable[[Path, int], Runner]
    exact: bool = True
    onnx: bool = True


FORMATS = {
    "onnx": Format("model.onnx", _onnx, onnx_files.run_onnx),
    "torch": Format("model.pt2", _torch, _run_torch, onnx=False),
    "int8": Format("model-int8.onnx", _int8, onnx_files.run_onnx, exact=False),
}


def check_formats(formats: Sequence[str]) -> None:
    """Say which of some formats there is not, or cannot be made here."""
    for name in formats:
        if name not in FORMATS:
            raise UnderstudyError(f"there is no format {name!r}{nearest(name, FORMATS)}")
    if any(FORMATS[name].onnx for name in formats):
        onnx_files.check_installed()


def export_network(
    network: Network,
    test: Source,
    calibration: Source | None,
    formats: Sequence[str],
    folder: Path,
    *,
    preprocessing: str = "inside",
    calibrate: int = CALIBRATE,
    tolerance: float = TOLERANCE,
) -> list[Exported]:
    """Write a network's files, load each back, and hold it against the network on a whole source.

    All files get their names at the end, or none does.

    Args:
        network: on the CPU.
        test: what is answered by the network and by each file; it chooses nothing.
        calibration: where int8 takes samples from, which should be those the network learned from.
        formats: of `FORMATS`.
        folder: made where it is not there.
        preprocessing: "inside" or "beside"; see `Form`.
        calibrate: how many samples int8 takes, drawn by their places.
        tolerance: points of accuracy on `test` that int8 may lose.

    Raises:
        UnderstudyError: a file that disagrees, an operator that cannot be exported, no samples to calibrate on, a
            package that is missing, a full disk.
    """
    check_formats(formats)
    form = form_of(network, test, preprocessing)
    samples = _calibration(network, calibration, calibrate) if "int8" in formats else []
    job = Job(fold(network), form, samples)
    with _staging(folder) as staging, at_rest(network):
        for name in formats:
            write_whole(staging / FORMATS[name].file, FORMATS[name].make(job))
        found = answers(network, form, {n: FORMATS[n].run(staging / FORMATS[n].file, 0) for n in formats}, test)
        for name in formats:
            file = FORMATS[name].file
            if FORMATS[name].exact:
                check_float(found, name, file)
            else:
                check_int8(found, name, file, tolerance)
        runners = {name: FORMATS[name].run(staging / FORMATS[name].file, 1) for name in formats}
        sample = form.take(next(in_order(test.subset(torch.tensor([0])), 1, torch.device("cpu"))).inputs, network)
        times = race({"": whole(form, job.network), **runners}, sample)
        exported = _measured(network, found, times, {name: staging / FORMATS[name].file for name in formats}, folder)
        for one in exported:
            os.replace(staging / one.file.name, one.file)
    return exported


def _measured(
    network: Network, found: Answers, times: dict[str, Latency], files: dict[str, Path], folder: Path
) -> list[Exported]:
    def measured(size: int, logits: Tensor, name: str) -> Measured:
        return Measured(size, found.accuracy(logits), times[name].median, times[name].p90)

    original = measured(file_size(network), found.original, "")
    exported = []
    for name, path in files.items():
        own = measured(path.stat().st_size, found.files[name], name)
        exported.append(
            Exported(
                **asdict(own),
                format=name,
                file=folder / path.name,
                agreement=found.agreement(name),
                worst_difference=found.worst(name),
                original=original,
            )
        )
    return exported


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside the files' places, gone at the end."""
    staging = folder / f".{os.getpid()}.partial"
    new = not folder.exists()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _calibration(network: Network, source: Source | None, count: int) -> list[np.ndarray]:
    """Normalised batches of some of a source's samples, drawn by their places."""
    if source is None:
        raise UnderstudyError("int8 is calibrated on real samples, and there are none; give data with a training part")
    if count < 1:
        raise UnderstudyError(f"int8 is calibrated on real samples; --calibrate must be at least 1, not {count}")
    rows = permutation(len(source), name_key("calibration"))[:count].sort().values
    check_seen(source, network.contract.modality)
    with torch.inference_mode():
        batches = [
            network.prepare(batch.inputs).numpy()
            for batch in in_order(source.subset(rows), 32, torch.device("cpu"))
            if len(batch)
        ]
    if not batches:
        raise UnderstudyError(f"no sample of {source.name} that int8 is calibrated on could be read; check its files")
    return batches
