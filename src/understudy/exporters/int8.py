"""Static 8-bit quantization of an ONNX model, calibrated on training samples."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from understudy.exporters.interface import INPUT
from understudy.exporters.torch_export import export_errors

if TYPE_CHECKING:
    from onnx import ModelProto

_OPERATORS = [
    *("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Concat", "Reshape", "Transpose"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
]
"""Convolutions and matrix products, and the operators that may stand between them. Normalization layers, which
GroupNorm is exported as, stay in float32: quantizing them costs a network with GroupNorm most of its accuracy."""


def quantize(model: ModelProto, batches: Sequence[np.ndarray]) -> ModelProto:
    """Quantize the weights and activations of a model to 8 bits, in QDQ format.

    Weights are signed with one scale per channel. Activations are unsigned, the fastest choice in ONNX Runtime, with
    min-max ranges, which are calibrated on batches of normalized inputs, float32 (B, *shape) each.
    """
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert batches, "nothing to calibrate on"

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    with tempfile.TemporaryDirectory() as folder:
        original, preprocessed, quantized = (Path(folder) / f"{name}.onnx" for name in ("float", "inferred", "int8"))
        onnx.save(model, original)
        with export_errors("onnxruntime could not quantize the model to int8", "export without int8"):
            quant_pre_process(str(original), str(preprocessed), skip_symbolic_shape=True)
            q.quantize_static(
                str(preprocessed), str(quantized), Reader(), op_types_to_quantize=_OPERATORS,
                quant_format=q.QuantFormat.QDQ, calibrate_method=q.CalibrationMethod.MinMax,
                per_channel=True, activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
            )  # fmt: skip
        return onnx.load(quantized)
