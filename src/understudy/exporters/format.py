"""What an export format is; each of the files beside this one has its own."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.exporters.converting import quiet
from understudy.exporters.verify import Runner

if TYPE_CHECKING:
    from understudy.exporters.job import Job


@dataclass(frozen=True)
class Script:
    """How the predict.py of a format runs the file, in a few lines of Python.

    Attributes:
        packages: what it needs besides NumPy and Pillow, as pip names them.
        imports: its imports, a statement each.
        opening: code that makes `metadata`, a dict of the file's JSON values, and `run`, a function from a batch to
            logits (N, C); `{file}` is the name of the file.
    """

    packages: str
    imports: tuple[str, ...]
    opening: str


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        label: as sentences name it.
        file: what is loaded, a name in the folder of the export.
        to_files: everything that is written, by name; names with a "/" are in a folder.
        load: (path, number of threads or 0 for all) -> a function from inputs of the file to logits.
        packages: modules that are imported to write and to run it.
        import_module: imports one of them.
        extra: of Understudy, which installs them.
        library: as Hugging Face names it.
        builds: where there are no builds of the packages, for the message about a missing one.
        exact: whether the logits must equal those of the network up to rounding.
        onnx: whether it is an ONNX file, which the page in the browser can hold.
        several: whether the file takes any number of samples at a time, or one.
        systems: on which it can be run and checked, as `platform.system` names them; everywhere if empty.
        script: how predict.py runs it; None without a runtime of its own in Python.
        pixels: how the file takes pixels, if not as the interface says.
    """

    label: str
    file: str
    to_files: Callable[[Job], Mapping[str, bytes]]
    load: Callable[[Path, int], Runner]
    packages: tuple[str, ...] = ()
    import_module: Callable[[str], Any] = import_module
    extra: str = "export"
    library: str = "onnx"
    builds: str = ""
    exact: bool = True
    onnx: bool = False
    several: bool = True
    systems: tuple[str, ...] = ()
    script: Script | None = None
    pixels: str = ""

    @property
    def runs_here(self) -> bool:
        return not self.systems or platform.system() in self.systems

    def check_installed(self) -> None:
        """Raise UnderstudyError if a package that it needs is missing, or was not built for this machine."""
        for name in self.packages:
            try:
                with quiet():  # some say what they lack, of what is not needed here
                    self.import_module(name)
            except ImportError as error:
                missing = isinstance(error, ModuleNotFoundError) and (error.name or name).partition(".")[0] == name
                why = "is not installed" if missing else f"cannot be imported ({str(error).splitlines()[0]})"
                here = f"; there is none for {self.builds}" if self.builds else ""
                raise UnderstudyError(
                    f"{self.label} export needs the package {name}, which {why}; "
                    f"pip install 'understudy[{self.extra}]'{here}"
                ) from error


def one_by_one(run: Runner) -> Runner:
    """A function of a batch from one of a single sample.

    >>> one_by_one(lambda x: x.sum(1, keepdim=True))(torch.ones(3, 2)).shape
    torch.Size([3, 1])
    """

    def every(x: Tensor) -> Tensor:
        return torch.cat([run(row) for row in x.split(1)])

    return every
