"""Exported programs as ONNX models, and ONNX models run by ONNX Runtime."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from understudy.exporters.converting import export_errors, summarize
from understudy.exporters.format import Format, Script
from understudy.exporters.interface import INPUT, OUTPUT
from understudy.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

    from understudy.exporters.job import Job


def to_onnx(program: torch.export.ExportedProgram, name: str, output: str = OUTPUT) -> ModelProto:
    """Convert a traced module to ONNX, in the opset that torch's exporter recommends.

    Means over the height and width of images become global average pooling, which ONNX Runtime computes in the layout
    of the convolutions around it.

    Raises:
        UnderstudyError: The exporter does not support an operator, which the message names.
    """
    remedy = "export it with --format torch, or replace that operator"
    with export_errors(f"{name} cannot be exported to ONNX", remedy, _unsupported):
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[output], external_data=False
        )
    assert exported is not None
    return _with_pooling(exported.model_proto)


def _with_pooling(model: ModelProto) -> ModelProto:
    """The model with `GlobalAveragePool` for each mean over the last two of four dimensions that keeps them."""
    from onnx import numpy_helper

    constants = {x.name: x for x in model.graph.initializer}
    ranks = {x.name: len(x.type.tensor_type.shape.dim) for x in (*model.graph.value_info, *model.graph.input)}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != 4 or node.input[1] not in constants:
            continue
        axes = {int(axis) % 4 for axis in numpy_helper.to_array(constants[node.input[1]]).ravel()}
        kept = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "keepdims")
        if axes == {2, 3} and kept:
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
    return model


def _unsupported(error: BaseException) -> str:
    """The operator that could not be exported, from the chain of exceptions."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in reversed(chain):
        match = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>", str(link))
        if match:
            return f"no ONNX operator for {match[1]}.{match[2]}"
        match = re.search(r"target=torch\.ops\.([\w.]+)", str(link))
        if match:
            return f"operator {match[1]} could not be translated: {summarize(chain[-1])}"
    return summarize(chain[-1])


def chain_models(first: ModelProto, second: ModelProto) -> ModelProto:
    """One model that feeds the output of the first into the second."""
    from onnx import compose, helper

    model = compose.merge_models(
        compose.add_prefix(first, "prepare/"), second, io_map=[(f"prepare/{OUTPUT}", INPUT)], name="understudy"
    )
    opsets = {entry.domain.removeprefix("ai.onnx"): entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets.items())
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == f"prepare/{INPUT}":
                node.input[i] = INPUT
    model.graph.input[0].name = INPUT
    return model


def onnx_bytes(model: ModelProto, metadata: Mapping[str, str]) -> bytes:
    """Serialize a model with its metadata, after a full check by `onnx.checker`."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.producer_name, copy.producer_version = "understudy", __version__
    del copy.graph.value_info[:]  # intermediate shapes, which readers infer
    read = {name for node in copy.graph.node for name in node.input}
    for unread in [x for x in copy.graph.initializer if x.name not in read]:
        copy.graph.initializer.remove(unread)
    for value in (copy.graph.input[0], copy.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for part in (*copy.graph.node, *copy.graph.input, *copy.graph.output, *copy.graph.initializer):
        del part.metadata_props[:]  # contains local paths
        part.ClearField("doc_string")
    del copy.metadata_props[:]
    onnx.helper.set_model_props(copy, dict(metadata))
    onnx.checker.check_model(copy, full_check=True)
    return copy.SerializeToString()


def load_onnx(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """Load an .onnx file on the CPU, to run on a number of threads; 0 for one per core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

    return run


def serialized(core: ModelProto, job: Job) -> bytes:
    """A model of normalized inputs as a file: after its preprocessing, if that is embedded, with the metadata."""
    model = core if job.preprocessor is None else chain_models(job.preprocessor, core)
    return onnx_bytes(model, job.metadata)


def to_files(job: Job) -> dict[str, bytes]:
    """The network as an ONNX file."""
    return {"model.onnx": serialized(job.core, job)}


PACKAGES = ("onnx", "onnxscript", "onnxruntime")
SCRIPT = Script(
    "onnxruntime",
    ("import onnxruntime",),
    """session = onnxruntime.InferenceSession(Path(__file__).with_name("{file}"))
metadata = {{key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}}


def run(x):
    return session.run(None, {{"input": x}})[0]
""",
)
FORMAT = Format("ONNX", "model.onnx", to_files, load_onnx, PACKAGES, onnx=True, script=SCRIPT)
