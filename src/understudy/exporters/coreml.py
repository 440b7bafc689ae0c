"""Core ML: an .mlpackage for Apple's devices. It is written anywhere, and can be run and checked on macOS."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from understudy.exporters.converting import export_errors
from understudy.exporters.format import Format, one_by_one
from understudy.exporters.interface import INPUT, OUTPUT
from understudy.exporters.torch_export import trace

if TYPE_CHECKING:
    from understudy.exporters.job import Job

_PACKAGE = "model.mlpackage"


def to_files(job: Job) -> dict[str, bytes]:
    """The network as an ML program in float32, for one sample at a time. Core ML has no bytes: pixels are floats."""
    sample = job.sample(1).float()
    program = trace(job.module, sample, job.name, several=False)
    with export_errors(f"{job.name} cannot be exported to Core ML", "export it with --format onnx"):
        import coremltools as ct  # type: ignore[import-not-found]

        model = ct.convert(
            program.run_decompositions({}), inputs=[ct.TensorType(name=INPUT, shape=tuple(sample.shape))],
            outputs=[ct.TensorType(name=OUTPUT, dtype=np.float32)], compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16, convert_to="mlprogram", skip_model_load=True,
        )  # fmt: skip
        for key, value in job.metadata.items():
            model.user_defined_metadata[key] = value
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / _PACKAGE
            model.save(str(package))
            return {
                f"{_PACKAGE}/{file.relative_to(package).as_posix()}": file.read_bytes()
                for file in sorted(package.rglob("*"))
                if file.is_file()
            }


def load(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """Load an .mlpackage on the CPU of a Mac. Core ML has no setting for the number of threads."""
    import coremltools as ct  # type: ignore[import-not-found]

    model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(model.predict({INPUT: x.float().numpy()})[OUTPUT])

    return one_by_one(run)


FORMAT = Format(
    "Core ML", _PACKAGE, to_files, load, ("coremltools",), extra="coreml", library="coreml",
    builds="Windows, or Python 3.14 yet", several=False, systems=("Darwin",), pixels="float32 from 0 to 255",
)  # fmt: skip
