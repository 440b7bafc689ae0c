"""Traced modules as ONNX models, and ONNX models run."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.exports.form import INPUT, OUTPUT
from understudy.exports.torch_files import hushed, reason

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_installed() -> None:
    """Raise UnderstudyError where a package that ONNX files need is missing."""
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as fault:
            raise UnderstudyError(
                f"ONNX files need the package {name}, which is not installed; pip install 'understudy[export]'"
            ) from fault


def to_onnx(traced: torch.export.ExportedProgram, who: str) -> Any:
    """A traced module as an `onnx.ModelProto`, in the opset that torch's exporter recommends.

    Raises:
        UnderstudyError: an operator that the exporter does not know; its name is said.
    """
    with hushed():
        try:
            made = torch.onnx.export(
                traced, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT], external_data=False
            )
        except torch.onnx.OnnxExporterError as fault:
            raise UnderstudyError(
                f"{who} cannot be exported to ONNX: {_unsupported(fault)}; export it with --format torch, or replace "
                "that operator"
            ) from fault
        assert made is not None
        return made.model_proto


def _unsupported(fault: BaseException) -> str:
    """What the exporter could not do, from the exceptions it was raised from."""
    chain = [fault]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for one in reversed(chain):
        found = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>", str(one))
        if found:
            return f"it has no operator for {found[1]}.{found[2]}"
        found = re.search(r"target=torch\.ops\.([\w.]+)", str(one))
        if found:
            return f"the operator {found[1]} could not be translated ({reason(chain[-1])})"
    return reason(chain[-1])


def joined(first: Any, second: Any) -> Any:
    """One model of two: what the first puts out goes into the second."""
    from onnx import compose

    both = compose.merge_models(
        compose.add_prefix(first, "prepare/"), second, io_map=[(f"prepare/{OUTPUT}", INPUT)], name="understudy"
    )
    opsets = {entry.domain.removeprefix("ai.onnx"): entry.version for entry in both.opset_import}
    del both.opset_import[:]
    both.opset_import.extend(_opsets(opsets))
    for node in both.graph.node:
        for at, name in enumerate(node.input):
            if name == f"prepare/{INPUT}":
                node.input[at] = INPUT
    both.graph.input[0].name = INPUT
    return both


def _opsets(versions: Mapping[str, int]) -> list[Any]:
    from onnx import helper

    return [helper.make_opsetid(domain, version) for domain, version in versions.items()]


def onnx_bytes(model: Any, metadata: Mapping[str, str]) -> bytes:
    """An .onnx file, with metadata and checked by onnx's own checker."""
    import onnx

    own = onnx.ModelProto()
    own.CopyFrom(model)
    own.producer_name, own.producer_version = "understudy", __version__
    del own.graph.value_info[:]  # of shapes inside, which readers infer
    for value in (own.graph.input[0], own.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for node in own.graph.node:  # the exporter notes where in whose files each came from
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for value in (*own.graph.input, *own.graph.output, *own.graph.initializer):
        del value.metadata_props[:]
        value.ClearField("doc_string")
    del own.metadata_props[:]
    onnx.helper.set_model_props(own, dict(metadata))
    onnx.checker.check_model(own, full_check=True)
    return own.SerializeToString()


def run_onnx(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """A file's answers, on the CPU.

    Args:
        threads: 0 for as many as there are cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def answer(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {name: x.numpy()})[0])

    return answer
