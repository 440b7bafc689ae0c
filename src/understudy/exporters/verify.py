"""Verification of exported files against the network: logits on a whole split, and latency of one sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from torch import Tensor

from understudy.data import Source
from understudy.data.loader import in_order
from understudy.errors import UnderstudyError
from understudy.evaluation import accuracy, agreement
from understudy.exporters.interface import Interface
from understudy.models import Network

Runner = Callable[[Tensor], Tensor]

ROUNDING = 1e-3
"""Largest allowed difference between the logits of a float file and of the network, relative to the largest logit.
Kernels that sum in another order differ by 1e-6 to 1e-5 in float32; a missing step or a wrong weight by over 1e-2."""
TIE = 1e-4
"""Two logits closer than this, relative to the largest logit, are a tie: a float file may predict either class."""

_DISCARDED = "it was discarded: this is a bug of the installed torch or onnxruntime; try another version"
_BATCH = 100
_WARM_UP, _ROUNDS, _SECONDS = 5, 200, 1.0


@dataclass(frozen=True, slots=True)
class Outputs:
    """Logits of the network and of each exported file on a split.

    Example:
        >>> reference = torch.tensor([[2.0, 1.0], [0.5, 1.5]])
        >>> outputs = Outputs(reference, {"onnx": reference + torch.tensor([0.0, 0.25])}, torch.tensor([0, 0]))
        >>> outputs.worst_difference("onnx"), outputs.agreement("onnx"), outputs.accuracy(reference)
        (0.25, 1.0, 0.5)
    """

    reference: Tensor  # logits of the network, (N, C)
    files: dict[str, Tensor]  # logits of each file, (N, C), by format
    targets: Tensor | None  # (N,), or None for unlabeled data

    def accuracy(self, logits: Tensor) -> float | None:
        return None if self.targets is None else accuracy(logits, self.targets)

    def worst_difference(self, name: str) -> float:
        """Largest absolute difference between a logit of a file and of the network."""
        return (self.files[name] - self.reference).abs().max().item()

    def agreement(self, name: str) -> float:
        """Fraction of samples for which a file predicts the same class as the network."""
        return agreement(self.files[name], self.reference)


def compute_outputs(network: Network, interface: Interface, runners: Mapping[str, Runner], test: Source) -> Outputs:
    """Run a network (in eval mode, not folded) and its exported files on every readable sample of a source."""
    reference: list[Tensor] = []
    targets: list[Tensor] = []
    files: dict[str, list[Tensor]] = {name: [] for name in runners}
    with torch.inference_mode():
        for batch in in_order(test, _BATCH, torch.device("cpu")):
            if not len(batch):
                continue
            reference.append(network(batch).logits.float())
            if batch.targets is not None:
                targets.append(batch.targets)
            x = interface.convert(batch.inputs, network)
            for name, run in runners.items():
                files[name].append(run(x).float())
    if not reference:
        raise UnderstudyError(f"no sample of {test.name} could be read; check its files")
    logits = {name: torch.cat(parts) for name, parts in files.items()}
    return Outputs(torch.cat(reference), logits, torch.cat(targets) if targets else None)


def verify_float(outputs: Outputs, name: str, file: str) -> None:
    """Raise UnderstudyError unless the logits of a float file equal those of the network up to rounding."""
    logits, reference = outputs.files[name], outputs.reference
    if logits.shape != reference.shape:
        raise UnderstudyError(
            f"{file} returns logits of shape {tuple(logits.shape)}, not {tuple(reference.shape)}; {_DISCARDED}"
        )
    scale = reference.abs().max().item()
    difference = (logits - reference).abs()
    largest, limit = difference.max().item(), ROUNDING * scale
    if not largest <= limit:  # also true for NaN
        count = int((~(difference <= limit)).any(1).sum())
        raise UnderstudyError(
            f"{file} does not match the network: the logits of {count:,} of {len(reference):,} samples differ by more "
            f"than {limit:.2g}, up to {largest:.2g}; {_DISCARDED}"
        )
    expected, predicted = reference.argmax(1, keepdim=True), logits.argmax(1, keepdim=True)
    margin = (reference.gather(1, expected) - reference.gather(1, predicted)).flatten()
    wrong = int((margin > TIE * scale).sum())
    if wrong:
        raise UnderstudyError(
            f"{file} does not match the network: it predicts another class for {wrong:,} of {len(reference):,} "
            f"samples, though no logit differs by more than {largest:.2g}; {_DISCARDED}"
        )


def verify_int8(outputs: Outputs, name: str, file: str, tolerance: float) -> None:
    """Raise UnderstudyError if the accuracy of an int8 file is lower by more than `tolerance` points.

    Without labels, its agreement with the network is used instead.
    """
    score, reference = outputs.accuracy(outputs.files[name]), outputs.accuracy(outputs.reference)
    metric = "accuracy"
    if score is None or reference is None:
        score, reference, metric = outputs.agreement(name), 1.0, "agreement with the network"
    drop = 100 * (reference - score)
    if not drop <= tolerance or not outputs.files[name].isfinite().all():
        raise UnderstudyError(
            f"{file} is not accurate enough: its {metric} is {score:.2%}, compared to {reference:.2%} for the network, "
            f"a drop of {drop:.2f} points where {tolerance:g} are tolerated; it was discarded: pass more --calibrate "
            "samples, or a larger --tolerance"
        )


def benchmark(runners: Mapping[str, Runner], sample: Tensor, threads: int = 1) -> dict[str, tuple[float, float]]:
    """Median and 90th percentile of the latency in ms of runners, for a sample of shape (1, *shape).

    Runs are interleaved, so that other load affects all runners alike.

    Args:
        threads: that torch may use; the runners have their own.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    with torch.inference_mode(), _threads(threads):
        for _ in range(_WARM_UP):
            for run in runners.values():
                run(sample)
        end = time.perf_counter() + _SECONDS * len(runners)
        while len(next(iter(times.values()))) < _ROUNDS and time.perf_counter() < end:
            order = list(runners)
            first = len(times[order[0]]) % len(order)
            for name in order[first:] + order[:first]:
                start = time.perf_counter()
                runners[name](sample)
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: (median(ms), quantiles(ms, n=10, method="inclusive")[8]) for name, ms in times.items()}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
