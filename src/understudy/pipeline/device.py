"""Where a run computes, and in which precision."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from lightning_fabric import Fabric

from understudy.config.options import MachineOptions
from understudy.errors import UnderstudyError
from understudy.models import Network, is_depthwise

_AUTO = MachineOptions()
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt(3)


def supports_bf16(accelerator: str) -> bool:
    """Whether the processor has units for bf16 matrix products; without them autocast is slower than float32."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    units = torch.cpu.get_capabilities()
    return accelerator == "cpu" and bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def slower_in_bf16(options: MachineOptions, network: Network) -> bool:
    """Whether automatic precision means float32 for this network: depthwise convolutions are slow in bf16 on CPUs.

    `benchmarks/precision.py` measures it.
    """
    return options.precision == "auto" and accelerator_of(options) == "cpu" and is_depthwise(network.module)


def accelerator_of(options: MachineOptions = _AUTO) -> str:
    """The device type: a GPU if there is one, unless the options say otherwise."""
    if options.accelerator != "auto":
        return options.accelerator
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(options: MachineOptions = _AUTO) -> torch.device:
    """The device of `accelerator_of`; each of several processes has its own."""
    keep_freed_memory()
    return torch.device(accelerator_of(options))


@cache
def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors for the next ones.

    It would give large blocks back to the system at once, and each pass of a network would wait for the pages of its
    activations to be mapped and zeroed again: up to half of the time of a forward pass. Other allocators keep them by
    themselves, and one that MALLOC_MMAP_MAX_ or MALLOC_TRIM_THRESHOLD_ tune is left as it is.
    """
    if platform.libc_ver()[0] == "glibc" and not {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys():
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def workers_of(options: MachineOptions) -> int:
    """The number of data loading processes."""
    return min(usable_cores(), 8) if options.workers is None else options.workers


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: those of its affinity, and no more than the quota of its control group.

    Args:
        cgroup: the folder with `cpu.max` (version 2), or with `cpu/cpu.cfs_quota_us` and its period (version 1).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            if int(quota) > 0:  # else "max" or -1, for none
                return max(1, min(cores, math.ceil(int(quota) / int(period))))
    return cores


def check_machine(options: MachineOptions) -> None:
    """Check that this machine has what the options ask for.

    Raises:
        UnderstudyError: too few devices, a precision that they lack, or several machines that nobody started.
    """
    accelerator = accelerator_of(options)
    available = {
        "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": os.cpu_count() or 1,
    }[accelerator]  # fmt: skip
    if available < options.devices and not (accelerator == "cpu" and _launched()):
        fewer = f"--devices {available} or fewer" if available else "--accelerator cpu --devices 1"
        raise UnderstudyError(
            f"{options.devices} {accelerator} devices were requested and {available} are available; pass {fewer}"
        )
    if options.precision == "fp16" and accelerator == "cpu":
        raise UnderstudyError("fp16 needs a GPU; pass --precision bf16 or 32")
    if options.nodes > 1 and not _launched():
        raise UnderstudyError(
            f"{options.nodes} machines need a process on each; start them by torchrun or SLURM, or leave out --nodes"
        )


def _launched() -> bool:
    """Whether torchrun or SLURM started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_JOB_ID" in os.environ


def make_fabric(options: MachineOptions) -> Fabric:
    """Fabric for the options; `training.launch` starts a process for each of several devices."""
    accelerator = accelerator_of(options)
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if supports_bf16(accelerator) else "32"
    check_machine(options)
    several = options.devices * options.nodes > 1
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would repeat what the recipe says
    return Fabric(
        accelerator=accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy="ddp" if several else "auto",
        precision={"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[precision],  # type: ignore[arg-type]
    )


def first_process() -> bool:
    """Whether this is the process that writes and prints, of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0
