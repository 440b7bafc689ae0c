"""OpenVINO IR: a network for Intel processors, and ARM, by OpenVINO's runtime."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from understudy.exporters.converting import export_errors
from understudy.exporters.format import Format, Script
from understudy.exporters.interface import INPUT, OUTPUT

if TYPE_CHECKING:
    from understudy.exporters.job import Job

_TELEMETRY = "openvino_telemetry"
_SECTION = "understudy"  # of the runtime information in the file


def import_silent(name: str) -> Any:
    """Import OpenVINO as if its package that reports usage were not installed: it reports when it is imported."""
    known = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return import_module(name)
    finally:
        del sys.modules[_TELEMETRY]
        if known is not None:
            sys.modules[_TELEMETRY] = known


def to_files(job: Job) -> dict[str, bytes]:
    """The network as IR in float32: a graph and its weights, for any number of samples."""
    ov = import_silent("openvino")
    with (
        export_errors(f"{job.name} cannot be exported to OpenVINO", "export it with --format onnx"),
        tempfile.TemporaryDirectory() as folder,
    ):
        model = ov.convert_model(job.program)
        model.inputs[0].get_tensor().set_names({INPUT})
        model.outputs[0].get_tensor().set_names({OUTPUT})
        model.reshape({INPUT: ov.PartialShape([-1, *job.interface.shape])})
        for key, value in job.metadata.items():
            model.set_rt_info(value, [_SECTION, key])
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def load(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """Load IR on the CPU in float32, to run on a number of threads; 0 for one per core."""
    ov = import_silent("openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    limit = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    compiled = ov.Core().compile_model(path, "CPU", options | limit)
    request = compiled.create_infer_request()

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(request.infer({INPUT: x.numpy()})[OUTPUT].copy())

    return run


SCRIPT = Script(
    "openvino",
    (),
    """sys.modules["openvino_telemetry"] = None  # nothing is reported
import openvino

model = openvino.Core().read_model(Path(__file__).with_name("{file}"))
metadata = {{key: json.loads(value) for key, value in model.get_rt_info("understudy").value.items()}}
compiled = openvino.compile_model(model, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})


def run(x):
    return compiled({{"input": x}})["logits"]
""",
)
FORMAT = Format(
    "OpenVINO", "model.xml", to_files, load, ("openvino",), import_silent, extra="openvino", library="openvino",
    script=SCRIPT,
)  # fmt: skip
