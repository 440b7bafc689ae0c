"""Static 8-bit quantisation of an ONNX model, calibrated on real samples."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError
from understudy.exports.form import INPUT
from understudy.exports.torch_files import hushed, reason

_OPERATORS = [
    *("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Concat", "Reshape", "Transpose"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
]
"""Products and what may stand between two of them. Normalisations, which GroupNorm becomes, stay in float32: in 8 bits
they cost a net with GroupNorm most of its accuracy."""


def to_int8(model: Any, batches: Sequence[np.ndarray]) -> Any:
    """An `onnx.ModelProto` with weights and activations in 8 bits (QDQ).

    Weights are signed, with a scale for each channel; activations unsigned, which ONNX Runtime multiplies fastest, with
    the range from their least to their greatest value.

    Args:
        model: float32, from normalised inputs to logits.
        batches: normalised inputs, (B, *shape) float32 each, that the ranges of the activations are found on.

    Raises:
        UnderstudyError: onnxruntime's quantiser failed.
    """
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert batches, "nothing to calibrate on"

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            batch = next(self.left, None)
            return None if batch is None else {INPUT: batch}

    with tempfile.TemporaryDirectory() as folder, hushed():
        plain, ready, small = (Path(folder) / name for name in ("plain.onnx", "ready.onnx", "small.onnx"))
        onnx.save(model, plain)
        try:
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
            q.quantize_static(
                str(ready),
                str(small),
                Reader(),
                quant_format=q.QuantFormat.QDQ,
                op_types_to_quantize=_OPERATORS,
                per_channel=True,
                activation_type=q.QuantType.QUInt8,
                weight_type=q.QuantType.QInt8,
                calibrate_method=q.CalibrationMethod.MinMax,
            )
        except OSError:
            raise
        except Exception as fault:  # onnxruntime raises what it likes for a graph that it cannot quantise
            raise UnderstudyError(
                f"onnxruntime could not make an int8 model ({reason(fault)}); export without int8"
            ) from fault
        return onnx.load(small)
