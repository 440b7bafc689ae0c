"""Modules as `torch.export` programs with a dynamic batch size."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError


def trace(module: nn.Module, sample: Tensor, name: str) -> torch.export.ExportedProgram:
    """Trace a module on a batch of at least two samples, so that the batch size is not specialized to a constant.

    Raises:
        UnderstudyError: The module cannot be traced, e.g. because it branches on values.
    """
    with torch.no_grad():
        module(sample)  # an error of the module itself is not an error of tracing
        with export_errors(
            f"{name} cannot be exported: torch.export could not trace it",
            "change that part of the model, or keep the weights file",
        ):
            return torch.export.export(module, (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def program_bytes(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """Serialize a program as a .pt2 file, with the metadata as extra files."""
    stream = io.BytesIO()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains local paths
    with quiet():
        torch.export.save(program, stream, extra_files=dict(metadata))
    return stream.getvalue()


def load_program(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """Load a .pt2 file; it runs with the number of threads that torch is set to."""
    return torch.export.load(path).module()


def summarize(error: BaseException) -> str:
    """The first line of an error message, or the type of the error.

    >>> summarize(ValueError("no operator  for roll.\\nTraceback ..."))
    'no operator for roll'
    >>> summarize(KeyError())
    'KeyError'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0])[:200].rstrip(".") if lines else type(error).__name__


@contextmanager
def export_errors(problem: str, remedy: str, summary: Callable[[BaseException], str] = summarize) -> Iterator[None]:
    """Silence an exporter, and turn its errors, which are of many types, into `UnderstudyError`s."""
    with quiet():
        try:
            yield
        except OSError:  # e.g. a full disk
            raise
        except Exception as error:
            raise UnderstudyError(f"{problem} ({summary(error)}); {remedy}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings, logs and prints of exporters, which concern their own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
