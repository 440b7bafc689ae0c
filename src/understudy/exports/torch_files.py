"""Modules as `torch.export` programs, with a batch of any size."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError


def program(module: nn.Module, sample: Tensor, who: str) -> torch.export.ExportedProgram:
    """Trace a module.

    Args:
        sample: a batch of two or more, so that no size is taken for a constant.
        who: the network's name in complaints.

    Raises:
        UnderstudyError: the module does what cannot be traced, as branching on values.
    """
    with torch.no_grad():
        module(sample)  # a mistake in running it is not one in tracing it
        with hushed():
            try:
                return torch.export.export(module, (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            except Exception as fault:  # torch raises many types for code that it cannot follow
                raise UnderstudyError(
                    f"{who} cannot be exported: torch.export could not trace it ({reason(fault)}); change that part "
                    "of the model, or keep the weights file"
                ) from fault


def program_bytes(traced: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """A .pt2 file, the metadata in it as extra files."""
    stream = io.BytesIO()
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the files of this machine
    with hushed():
        torch.export.save(traced, stream, extra_files=dict(metadata))
    return stream.getvalue()


def reason(fault: BaseException) -> str:
    """The first line of what a fault says, in plain words."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0])[:200].rstrip(".") if lines else type(fault).__name__


@contextmanager
def hushed() -> Iterator[None]:
    """Without the exporters' own warnings, logs and prints, which are about themselves."""
    before: Any = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
