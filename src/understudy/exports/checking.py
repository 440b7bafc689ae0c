"""Files held against the network they were made from: answers on a whole split, and time for one sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from torch import Tensor

from understudy.data import Source
from understudy.data.batches import in_order
from understudy.errors import UnderstudyError
from understudy.evaluation import accuracy, agreement
from understudy.exports.form import Form
from understudy.models import Network

Runner = Callable[[Tensor], Tensor]

ROUNDING = 1e-3
"""How far a float file's logits may be from the network's, as a share of the largest: kernels differ in the order of
their sums, which in float32 costs 1e-6 to 1e-5; a missing step or a wrong weight costs more than a hundredth."""
TIE = 1e-4
"""Two logits nearer than this share of the largest are a tie, of which a float file may choose either class."""

_NOT_KEPT = "it was not kept: this torch or onnxruntime has a fault, which another version may lack"
_BATCH = 100
_WARM_UP, _ROUNDS, _SECONDS = 5, 200, 1.0


@dataclass(frozen=True, slots=True)
class Answers:
    """Logits of a split, (N, C), by the network and by each file, and the targets (N,) where there are any."""

    original: Tensor
    files: dict[str, Tensor]
    targets: Tensor | None

    def accuracy(self, logits: Tensor) -> float | None:
        return None if self.targets is None else accuracy(logits, self.targets)

    def worst(self, name: str) -> float:
        """The largest difference of a file's logit from the network's."""
        return (self.files[name] - self.original).abs().max().item()

    def agreement(self, name: str) -> float:
        """Share of samples of which a file names the network's class."""
        return agreement(self.files[name], self.original)


def answers(network: Network, form: Form, runners: Mapping[str, Runner], test: Source) -> Answers:
    """What a network and its files answer to every readable sample of a source, in one pass.

    Args:
        network: in eval mode, as it was before it was folded.
    """
    original: list[Tensor] = []
    targets: list[Tensor] = []
    files: dict[str, list[Tensor]] = {name: [] for name in runners}
    with torch.inference_mode():
        for batch in in_order(test, _BATCH, torch.device("cpu")):
            if not len(batch):
                continue
            original.append(network(batch).logits.float())
            if batch.targets is not None:
                targets.append(batch.targets)
            taken = form.take(batch.inputs, network)
            for name, run in runners.items():
                files[name].append(run(taken).float())
    if not original:
        raise UnderstudyError(f"no sample of {test.name} could be read; check its files")
    joined = {name: torch.cat(parts) for name, parts in files.items()}
    return Answers(torch.cat(original), joined, torch.cat(targets) if targets else None)


def check_float(found: Answers, name: str, file: str) -> None:
    """Raise UnderstudyError where a float file's answers are not the network's but for rounding (see `ROUNDING`)."""
    said, wanted = found.files[name], found.original
    if said.shape != wanted.shape:
        raise UnderstudyError(f"{file} gives {tuple(said.shape)} logits, not {tuple(wanted.shape)}; it was not kept")
    scale = wanted.abs().max().item()
    off = (said - wanted).abs()
    worst = off.max().item()
    if not worst <= ROUNDING * scale:  # also where it is not a number
        raise UnderstudyError(
            f"{file} disagrees with the network it was made from: of {len(wanted):,} samples, "
            f"{_beyond(off, ROUNDING * scale):,} have a logit that is off by more than {ROUNDING * scale:.2g}, the "
            f"worst by {worst:.2g}; {_NOT_KEPT}"
        )
    own, other = wanted.argmax(1, keepdim=True), said.argmax(1, keepdim=True)
    gap = (wanted.gather(1, own) - wanted.gather(1, other)).flatten()
    wrong = int((gap > TIE * scale).sum())
    if wrong:
        raise UnderstudyError(
            f"{file} disagrees with the network it was made from: it names another class for {wrong:,} of "
            f"{len(wanted):,} samples, though no logit is off by more than {worst:.2g}; {_NOT_KEPT}"
        )


def _beyond(off: Tensor, limit: float) -> int:
    return int((~(off <= limit)).any(1).sum())


def check_int8(found: Answers, name: str, file: str, tolerance: float) -> None:
    """Raise UnderstudyError where an int8 file's accuracy is lower by more than `tolerance` points.

    Without labels, the share of samples of which it names another class than the network is what counts.
    """
    said, wanted = found.accuracy(found.files[name]), found.accuracy(found.original)
    measure = "accuracy"
    if said is None or wanted is None:
        said, wanted, measure = found.agreement(name), 1.0, "agreement with the network"
    lost = 100 * (wanted - said)
    if not lost <= tolerance or not found.files[name].isfinite().all():
        raise UnderstudyError(
            f"{file} has lost too much: its {measure} is {said:.2%} where the network's is {wanted:.2%}, {lost:.2f} "
            f"points less, and {tolerance:g} are tolerated; it was not kept: pass more --calibrate samples, or a "
            "larger --tolerance"
        )


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds for one sample on one thread."""

    median: float
    p90: float


def race(runners: Mapping[str, Runner], sample: Tensor) -> dict[str, Latency]:
    """Time several ways to the same answer, turn by turn in one run, so that what else the machine does hits all alike.

    Args:
        runners: each to use one thread.
        sample: (1, *shape).
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    with torch.inference_mode(), one_thread():
        for _ in range(_WARM_UP):
            for run in runners.values():
                run(sample)
        end = time.perf_counter() + _SECONDS * len(runners)
        while len(next(iter(times.values()))) < _ROUNDS and time.perf_counter() < end:
            order = list(runners)
            at = len(times[order[0]]) % len(order)
            for name in order[at:] + order[:at]:
                start = time.perf_counter()
                runners[name](sample)
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: Latency(median(own), quantiles(own, n=10, method="inclusive")[8]) for name, own in times.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
