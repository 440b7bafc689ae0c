"""The inference cost of a network: parameters, FLOPs, file size and latency per image."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from understudy.models import Network, as_float, eval_mode, fold

_WARM_UP, _LIMIT = 0.1, 0.5  # seconds


def parameters(network: Network) -> int:
    """Number of parameters; shared tensors count once.

    >>> from understudy.models import InputContract, build
    >>> network = build("mlp:30", InputContract((1, 8, 8), (0.5,), (0.5,), tuple("0123456789")))
    >>> parameters(network) == (64 + 1) * 30 + (30 + 1) * 10
    True
    """
    return sum(x.numel() for x in network.parameters())


def flops(network: Network) -> int:
    """Floating point operations per image, of matrix products, convolutions and attention; a multiply-add counts as 2.

    >>> from understudy.models import InputContract, build
    >>> network = build("mlp:30", InputContract((1, 8, 8), (0.5,), (0.5,), tuple("0123456789")))
    >>> flops(network) == 2 * (64 * 30 + 30 * 10)
    True
    """
    sample = torch.zeros(1, *network.contract.source_shape, device=network.mean.device)
    # the math kernel of attention consists of matrix products, which are counted on any device
    counter = FlopCounterMode(display=False)
    # with gradients enabled, packed convolutions are plain ones, which the counter supports
    with eval_mode(network), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(sample)
    return counter.get_total_flops()


def latency(network: Network, repeats: int = 200, threads: int | None = None) -> tuple[float, float]:
    """(median, interquartile range) of the time per image in milliseconds, of the folded network on its device.

    At least three and at most `repeats` runs are timed, for about half a second. Of a quantized network
    it is the time without rounding, as an int8 file does not round in steps of its own.
    """
    folded = fold(as_float(network))
    folded.watch(())
    device = network.mean.device
    sample = torch.rand(1, *network.contract.source_shape, device=device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.inference_mode():
            return time_ms(lambda: folded(sample), device, repeats)
    finally:
        torch.set_num_threads(before)


def time_ms(run: Callable[[], object], device: torch.device, repeats: int = 200) -> tuple[float, float]:
    """(median, interquartile range) of a call's time in milliseconds, over half a second of calls after a warm-up."""
    _times(run, device, repeats, _WARM_UP)
    lower, median, upper = quantiles(_times(run, device, repeats, _LIMIT), n=4, method="inclusive")
    return median, upper - lower


def _times(run: Callable[[], object], device: torch.device, repeats: int, limit: float) -> list[float]:
    """Milliseconds of each of up to `repeats` calls that start within `limit` seconds, at least three."""
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
    """Bytes of the saved safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        network.save(path)
        return path.stat().st_size


def cost(network: Network) -> dict[str, float]:
    """`parameters`, `flops` and `latency_ms` per image, `latency_spread_ms`, and `bytes` of the file."""
    median, spread = latency(network)
    return {
        "parameters": parameters(network),
        "flops": flops(network),
        "bytes": file_size(network),
        "latency_ms": median,
        "latency_spread_ms": spread,
    }


def ensemble_cost(networks: Sequence[Network]) -> dict[str, float]:
    """The cost of an ensemble whose members run sequentially: the sum of theirs."""
    costs = [cost(network) for network in networks]
    return {name: sum(member[name] for member in costs) for name in costs[0]}
