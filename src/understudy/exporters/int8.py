"""Static 8-bit quantization of an ONNX model, with ranges that were trained or are calibrated on training samples."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from understudy.exporters.converting import export_errors
from understudy.exporters.format import Format
from understudy.exporters.interface import INPUT
from understudy.exporters.onnx import PACKAGES, SCRIPT, load_onnx, serialized
from understudy.models import Ranges
from understudy.models.quantization import scale_and_zero

if TYPE_CHECKING:
    from onnx import ModelProto

    from understudy.exporters.job import Job

_OPERATORS = [
    *("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Concat", "Reshape", "Transpose"),
    *("MaxPool", "AveragePool"),
]
"""Convolutions and matrix products, and the operators that may stand between them. Normalization layers, which
GroupNorm is exported as, stay in float32: quantizing them costs a network with GroupNorm most of its accuracy."""

_MOVING = {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"}


def quantize(
    model: ModelProto, batches: Sequence[np.ndarray], ranges: Mapping[str, Ranges] | None = None
) -> ModelProto:
    """Quantize the weights and activations of a model to 8 bits, in QDQ format.

    Weights have one scale per channel and 128 as zero. They are unsigned, as activations are: the products of unsigned
    and signed bytes overflow on processors without VNNI, which cost a ResNet-8 on CIFAR-100 eleven points. Activations
    have the ranges that layers were trained with, and min-max ranges elsewhere. Logits stay in float32: rounded, the
    best two are often equal.

    Args:
        model: takes normalized inputs.
        batches: normalized inputs to calibrate on, float32 (B, *shape) each.
        ranges: of what layers read and output, by the name of their weight; see `models.activation_ranges`.
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
                extra_options={"TensorQuantOverrides": _overrides(onnx.load(preprocessed), ranges or {})},
            )  # fmt: skip
        return _with_unsigned_weights(_with_float_outputs(onnx.load(quantized)))


def _overrides(model: ModelProto, ranges: Mapping[str, Ranges]) -> dict[str, list[dict[str, Any]]]:
    """The scales and zero points of the tensors around layers, by tensor.

    Where one layer's output is the next one's input, the tensor has the range of the output. What a layer reads through
    an operator that changes no value has the range of what that operator reads, as ONNX Runtime has it.
    """
    by_output = {node.output[0]: node for node in model.graph.node}
    found: dict[str, list[dict[str, Any]]] = {}
    layers = [
        (node, ranges[node.input[1]]) for node in model.graph.node if len(node.input) > 1 and node.input[1] in ranges
    ]
    around = [(_clipped(model, node.output[0]), one.output) for node, one in layers]
    around += [(node.input[0], one.input) for node, one in layers]
    for tensor, ends in around:
        if ends is None:
            continue
        scale, zero = scale_and_zero(torch.tensor(ends))
        same = [tensor]
        while same[-1] in by_output and by_output[same[-1]].op_type in _MOVING:
            same.append(by_output[same[-1]].input[0])
        for name in same:
            found.setdefault(name, [{"scale": scale.numpy(), "zero_point": np.array(int(zero), np.uint8)}])
    return found


def _clipped(model: ModelProto, tensor: str) -> str:
    """What becomes of a layer's output in the ReLU or Clip that alone reads it, which is computed within the layer."""
    readers = [node for node in model.graph.node if tensor in node.input]
    return readers[0].output[0] if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") else tensor


def _with_float_outputs(model: ModelProto) -> ModelProto:
    """The model without the rounding of its output."""
    by_output = {node.output[0]: node for node in model.graph.node}
    for output in model.graph.output:
        dequantize = by_output.get(output.name)
        quantize = None if dequantize is None else by_output.get(dequantize.input[0])
        source = None if quantize is None else by_output.get(quantize.input[0])
        if dequantize is None or quantize is None or source is None or quantize.op_type != "QuantizeLinear":
            continue
        readers = [node for node in model.graph.node if source.output[0] in node.input]
        if dequantize.op_type == "DequantizeLinear" and readers == [quantize]:
            source.output[0] = output.name
            for node in (quantize, dequantize):
                model.graph.node.remove(node)
    return model


def _with_unsigned_weights(model: ModelProto) -> ModelProto:
    """The model with 128 added to all signed bytes, and to their zeros: it computes the same."""
    import onnx

    initializers = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        for name in (node.input[0], *node.input[2:]):
            stored = initializers.get(name)
            if stored is not None and stored.data_type == onnx.TensorProto.INT8:
                shifted = (onnx.numpy_helper.to_array(stored).astype(np.int16) + 128).astype(np.uint8)
                stored.CopyFrom(onnx.numpy_helper.from_array(shifted, name))
    return model


def to_files(job: Job) -> dict[str, bytes]:
    """The network as a quantized ONNX file."""
    return {"model-int8.onnx": serialized(quantize(job.core, [one.normalized for one in job.batches], job.ranges), job)}


FORMAT = Format("ONNX", "model-int8.onnx", to_files, load_onnx, PACKAGES, exact=False, onnx=True, script=SCRIPT)
