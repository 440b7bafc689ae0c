"""ExecuTorch: a .pte file for phones and devices, with XNNPACK's kernels for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from understudy.exporters.converting import export_errors, quiet
from understudy.exporters.format import Format, Script, one_by_one

if TYPE_CHECKING:
    from understudy.exporters.job import Job


def to_files(job: Job) -> dict[str, bytes]:
    """The network as a .pte file in float32, for one sample at a time; its other methods return the metadata."""
    with export_errors(f"{job.name} cannot be exported to ExecuTorch", "export it with --format onnx"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # type: ignore[import-not-found]
        from executorch.exir import to_edge_transform_and_lower  # type: ignore[import-not-found]

        lowered = to_edge_transform_and_lower(
            job.single, partitioner=[XnnpackPartitioner()], constant_methods=dict(job.metadata)
        )
        return {"model.pte": bytes(lowered.to_executorch().buffer)}


def load(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """Load a .pte file. Its runtime for Python has no setting for the number of threads."""
    from executorch.runtime import Runtime  # type: ignore[import-not-found]

    with quiet():
        program = Runtime.get().load_program(path)
        method = program.load_method("forward")
    assert method is not None
    return one_by_one(partial(_execute, (program, method)))


def _execute(held: tuple[Any, Any], x: Tensor) -> Tensor:
    """The logits of one sample; a method is valid as long as its program is held."""
    return held[1].execute([x.contiguous()])[0].clone()


SCRIPT = Script(
    "executorch",
    ("import torch", "from executorch.runtime import Runtime"),
    """program = Runtime.get().load_program(Path(__file__).with_name("{file}"))
keys = program.method_names - {{"forward"}}
metadata = {{key: json.loads(program.load_method(key).execute([])[0]) for key in keys}}
method = program.load_method("forward")


def run(x):
    return np.concatenate([method.execute([torch.from_numpy(row[None].copy())])[0].numpy() for row in x])
""",
)
FORMAT = Format(
    "ExecuTorch", "model.pte", to_files, load, ("executorch",), extra="executorch", library="executorch",
    several=False, script=SCRIPT,
)  # fmt: skip
