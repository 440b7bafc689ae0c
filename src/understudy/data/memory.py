"""How much memory is free."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

SHARE = 0.25
"""Of the free memory, for decoded images."""


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that a process can take without others being swapped out.

    Args:
        cgroup: the folder with the limit of its control group.
    """
    free = 2**30
    with suppress(OSError, ValueError):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" where there is no limit
            free = min(free, max(int((cgroup / limit).read_text()) - int((cgroup / used).read_text()), 0))
    return free
