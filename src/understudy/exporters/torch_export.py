"""Modules as `torch.export` programs with a dynamic batch size."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from understudy.exporters.converting import export_errors, quiet
from understudy.exporters.format import Format

if TYPE_CHECKING:
    from understudy.exporters.job import Job


def trace(module: nn.Module, sample: Tensor, name: str, *, several: bool = True) -> torch.export.ExportedProgram:
    """Trace a module on a batch, for any number of samples.

    Args:
        sample: of at least two, so that the batch size is not specialized to a constant.
        several: False for a program that takes as many samples as `sample` has.

    Raises:
        UnderstudyError: The module cannot be traced, e.g. because it branches on values.
    """
    with torch.no_grad():
        module(sample)  # an error of the module itself is not an error of tracing
        with export_errors(
            f"{name} cannot be exported: torch.export could not trace it",
            "change that part of the model, or keep the weights file",
        ):
            shapes = ({0: torch.export.Dim("batch")},) if several else None
            return torch.export.export(module, (sample,), dynamic_shapes=shapes)


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


def to_files(job: Job) -> dict[str, bytes]:
    """The network with its preprocessing as a .pt2 file."""
    return {"model.pt2": program_bytes(job.program, job.metadata)}


FORMAT = Format("torch.export", "model.pt2", to_files, load_program, library="pytorch")
