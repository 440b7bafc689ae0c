"""What a network costs to run: its parameters, arithmetic, bytes and time for one image."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from understudy.evaluation.logits import evaluating
from understudy.models import Network, fold

_WARM_UP, _LIMIT = 0.1, 0.5  # seconds


def parameters(network: Network) -> int:
    """How many numbers are learnt; a shared tensor counts once."""
    return sum(x.numel() for x in network.parameters())


def flops(network: Network) -> int:
    """Floating point operations for one image; a multiply-add counts as 2.

    Matrix products, convolutions and attention are counted, by torch's own counter; element-wise work is not.
    """
    sample = torch.zeros(1, *network.contract.source_shape, device=network.mean.device)
    # The plain attention kernel is made of matrix products, which are counted on every device.
    counter = FlopCounterMode(display=False)
    # Where gradients may be asked for, folded convolutions are plain ones, which the counter knows.
    with evaluating(network), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(sample)
    return counter.get_total_flops()


def latency(network: Network, repeats: int = 200, threads: int | None = None) -> tuple[float, float]:
    """Time for one image, in the folded inference form, on the device where the network lies.

    Args:
        repeats: most passes to time; about half a second of them are, and never fewer than three.
        threads: of the CPU; torch's present number where None.

    Returns:
        (median, interquartile range), both in milliseconds.
    """
    folded = fold(network)
    folded.watch(())
    device = network.mean.device
    sample = torch.rand(1, *network.contract.source_shape, device=device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.inference_mode():
            return timed(lambda: folded(sample), device, repeats)
    finally:
        torch.set_num_threads(before)


def timed(run: Callable[[], object], device: torch.device, repeats: int = 200) -> tuple[float, float]:
    """(median, interquartile range) of a run's time in milliseconds, over about half a second of runs after some."""
    _times(run, device, repeats, _WARM_UP)
    lower, median, upper = quantiles(_times(run, device, repeats, _LIMIT), n=4, method="inclusive")
    return median, upper - lower


def _times(run: Callable[[], object], device: torch.device, repeats: int, limit: float) -> list[float]:
    """Milliseconds of each of up to `repeats` runs that start within `limit` seconds, at least three."""
    times: list[float] = []
    end = time.perf_counter() + limit
    while len(times) < 3 or (len(times) < repeats and time.perf_counter() < end):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) * 1000)
    return times


def file_size(network: Network) -> int:
    """Bytes of the safetensors file that the network saves."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        network.save(path)
        return path.stat().st_size


def cost(network: Network, *, threads: int | None = None) -> dict[str, float]:
    """`parameters`, `flops` an image, `bytes` of the file, `latency_ms` and `latency_spread_ms` an image."""
    median, spread = latency(network, threads=threads)
    return {
        "parameters": parameters(network),
        "flops": flops(network),
        "bytes": file_size(network),
        "latency_ms": median,
        "latency_spread_ms": spread,
    }


def cost_of_all(networks: Sequence[Network], *, threads: int | None = None) -> dict[str, float]:
    """The cost of an ensemble, whose members run one after another: the sum of theirs."""
    costs = [cost(network, threads=threads) for network in networks]
    return {name: sum(one[name] for one in costs) for name in costs[0]}
