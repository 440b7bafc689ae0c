"""LiteRT (formerly TensorFlow Lite): a .tflite file for Android, iOS and microprocessors, in float32 or 8 bits."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from understudy.exporters.converting import export_errors
from understudy.exporters.format import Format, Script, one_by_one

if TYPE_CHECKING:
    from understudy.exporters.job import Job


def to_float(job: Job) -> bytes:
    """The network as a .tflite file in float32, for one sample at a time."""
    with export_errors(f"{job.name} cannot be exported to LiteRT", "export it with --format onnx"):
        import litert_torch  # type: ignore[import-not-found]

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            litert_torch.convert(job.module, (job.sample(1),)).export(str(path))
            return path.read_bytes()


def quantized(model: bytes, samples: list[np.ndarray]) -> bytes:
    """A float model with weights and activations in 8 bits, with min-max ranges.

    Args:
        samples: inputs of the file to calibrate on, (1, *shape) each.
    """
    with export_errors("ai-edge-quantizer could not quantize the model", "export without litert-int8"):
        from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]
        from ai_edge_quantizer import qtyping, quantizer, recipe  # type: ignore[import-not-found]

        interpreter = Interpreter(model_content=model)
        ((key, signature),) = interpreter.get_signature_list().items()
        (name,) = signature["inputs"]
        worker = quantizer.Quantizer(bytearray(model), recipe.static_wi8_ai8())
        worker.update_quantization_recipe(  # rounded, the best two logits are often equal
            regex=".*", operation_name=qtyping.TFLOperationName.OUTPUT,
            algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
        )  # fmt: skip
        ranges = worker.calibrate({key: [{name: sample} for sample in samples]})
        return bytes(worker.quantize(ranges).quantized_model)


def with_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """The file with its metadata in a zip archive behind it, where the format keeps what belongs to a model.

    >>> held = with_metadata(b"model", {"classes": '["a"]'})
    >>> held[:5], zipfile.ZipFile(io.BytesIO(held)).read("classes.json")
    (b'model', b'["a"]')
    """
    stream = io.BytesIO(model)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        for key, value in metadata.items():
            archive.writestr(zipfile.ZipInfo(f"{key}.json"), value)
    return stream.getvalue()


def to_files(job: Job) -> dict[str, bytes]:
    """The network as a .tflite file."""
    return {"model.tflite": with_metadata(to_float(job), job.metadata)}


def to_int8_files(job: Job) -> dict[str, bytes]:
    """The network as a quantized .tflite file, calibrated on training samples."""
    model = quantized(to_float(job), [row[None] for one in job.batches for row in one.inputs])
    return {"model-int8.tflite": with_metadata(model, job.metadata)}


def load(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """Load a .tflite file, to run on a number of threads; 0 for one per core."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]

    interpreter: Any = Interpreter(str(path), num_threads=threads or None)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: Tensor) -> Tensor:
        interpreter.set_tensor(given["index"], x.numpy())
        interpreter.invoke()
        return torch.from_numpy(interpreter.get_tensor(result["index"]))

    return one_by_one(run)


SCRIPT = Script(
    "ai-edge-litert",
    ("import zipfile", "from ai_edge_litert.interpreter import Interpreter"),
    """path = Path(__file__).with_name("{file}")
interpreter = Interpreter(str(path))
interpreter.allocate_tensors()
held = zipfile.ZipFile(path)
metadata = {{name.removesuffix(".json"): json.loads(held.read(name)) for name in held.namelist()}}


def run(x):
    logits = []
    for row in x:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        logits.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(logits)
""",
)
_PACKAGES = ("litert_torch", "ai_edge_litert")
_NONE = "Windows, or Linux on ARM"
FORMAT = Format(
    "LiteRT", "model.tflite", to_files, load, _PACKAGES, extra="litert", library="litert", builds=_NONE,
    several=False, script=SCRIPT,
)  # fmt: skip
INT8 = Format(
    "LiteRT", "model-int8.tflite", to_int8_files, load, (*_PACKAGES, "ai_edge_quantizer"), extra="litert",
    library="litert", builds=_NONE, exact=False, several=False, script=SCRIPT,
)  # fmt: skip
