"""`doctor`: what this machine has for Understudy, and what is missing."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from packaging.requirements import InvalidRequirement, Requirement

from understudy.data import NAMED, default_root
from understudy.data.formats.decoded import cache_folder
from understudy.files import path_of
from understudy.pipeline.device import accelerator_of, supports_bf16, usable_cores
from understudy.version import __version__

State = Literal["ok", "missing", "old"]

_HIDDEN = {"docs", "test", "dev"}  # extras of those who work on Understudy
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w.-]+)['\"]")


@dataclass(frozen=True)
class Part:
    """A package, a device or a folder that was looked at.

    Attributes:
        value: its version, or what was found; empty if nothing was.
        remedy: what to do about it; empty if it is there.
    """

    name: str
    value: str = ""
    state: State = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What was found, by heading.

    Attributes:
        packages: that Understudy cannot do without.
        extras: name of an extra -> the packages that it adds.
    """

    machine: tuple[Part, ...]
    packages: tuple[Part, ...]
    folders: tuple[Part, ...]
    extras: dict[str, tuple[Part, ...]]

    @property
    def healthy(self) -> bool:
        """Whether all required packages are there."""
        return all(part.state == "ok" for part in self.packages)


def doctor(*, data_root: str | Path | None = None) -> Diagnosis:
    """Look at the versions, devices, threads, folders and extras of this installation. Nothing is downloaded.

    Args:
        data_root: of the named data sets; default: $UNDERSTUDY_DATA, else ./data.

    Example:
        >>> found = doctor()
        >>> [part.name for part in found.machine[:3]], found.healthy
        (['understudy', 'python', 'system'], True)
    """
    required, extras = requirements(metadata.requires("understudy") or ())
    return Diagnosis(
        tuple(_machine()),
        tuple(examined(one, "pip install --upgrade understudy") for one in required),
        tuple(_folders(data_root)),
        {
            name: tuple(examined(one, f"pip install 'understudy[{name}]'") for one in of)
            for name, of in extras.items()
            if name not in _HIDDEN
        },
    )


def requirements(lines: Sequence[str]) -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What a package's metadata asks for: always, and by extra; only what is for this Python and system.

    >>> always, extras = requirements(["numpy>=1.26", "onnx>=1.17; extra == 'export'", "tomli; python_version < '3'"])
    >>> [one.name for one in always], [one.name for one in extras["export"]]
    (['numpy'], ['onnx'])
    """
    always: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {}
    for line in lines:
        try:
            one = Requirement(line)
        except InvalidRequirement:  # of a damaged installation
            continue
        named = _EXTRA.search(str(one.marker or ""))
        name = named[1] if named else ""
        if one.marker is None or one.marker.evaluate({"extra": name}):
            (extras.setdefault(name, []) if name else always).append(one)
    return always, extras


def examined(wanted: Requirement, remedy: str) -> Part:
    """A package as it is installed, compared with what is wanted.

    >>> examined(Requirement("numpy>=1"), "").state, examined(Requirement("numpy>=999"), "upgrade it").remedy
    ('ok', 'upgrade it')
    >>> examined(Requirement("no-such-package"), "pip install it")
    Part(name='no-such-package', value='', state='missing', remedy='pip install it')
    """
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return Part(wanted.name, "", "missing", remedy)
    if not wanted.specifier.contains(version, prereleases=True):
        return Part(wanted.name, f"{version}, not {wanted.specifier}", "old", remedy)
    return Part(wanted.name, version)


def _machine() -> Iterator[Part]:
    yield Part("understudy", __version__)
    yield Part("python", platform.python_version())
    yield Part("system", f"{platform.system()} {platform.machine()}")
    cores = usable_cores()
    yield Part("cpu", f"{cores} usable core{'s' * (cores > 1)}{', bf16 units' * supports_bf16('cpu')}")
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        yield Part(f"cuda:{number}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Part("mps", "Apple GPU")
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for the CPU"
    used = accelerator_of()
    yield Part("used by default", f"{used}{f' ({built}, and finds no GPU)' if used == 'cpu' else ''}")
    limit = os.environ.get("OMP_NUM_THREADS")
    yield Part(
        "threads", f"{torch.get_num_threads()}{f', as OMP_NUM_THREADS={limit}' if limit else ', tried at start'}"
    )


def _folders(data_root: str | Path | None) -> Iterator[Part]:
    home = default_root() if data_root is None else path_of(data_root, "the data root")
    here = [name for name, named in NAMED.items() if named.is_in(home, name)]
    found = f"{home}: {', '.join(here)}"
    how = "name the folder of your data sets with UNDERSTUDY_DATA or --data-root, or pass --download"
    yield Part("data", found) if home.is_dir() else Part("data", found, "missing", how)
    cache = cache_folder("images")
    yield Part("decoded images", str(cache) if cache else "not kept, as UNDERSTUDY_CACHE is empty")
    yield Part("weights of timm", HF_HUB_CACHE)
    yield Part("weights of torchvision", torch.hub.get_dir())
