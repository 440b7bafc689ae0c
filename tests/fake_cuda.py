"""Steps on CUDA tensors that hold no data, to count where a GPU would be waited for: no GPU is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators.cpu import CPUAccelerator
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA, CPU, META = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")

# The host reads the results of these, or must know how many there are.
_READ_BACK = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "bincount", "repeat_interleave",
}  # fmt: skip
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# These take a CPU tensor of no dimensions as an argument of their kernel; other operations would copy it.
_ELEMENTWISE = {
    *("add", "sub", "rsub", "mul", "div", "pow", "add_", "sub_", "mul_", "div_", "maximum", "minimum"),
    *("eq", "ne", "lt", "le", "gt", "ge", "bitwise_xor", "bitwise_and"),
}


class Waits(TorchDispatchMode):
    """Records the operations for which the host waits for the device: copies from and to it, and what the host reads.

    Autograd asks tensors for their device to look for its stream, which takes a driver: it is told "meta", and what it
    makes there is made on the fake device.

    Attributes:
        found: names of operations that wait.
        launches: the number of other operations on the device, views apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            device = args[0].fake_device if isinstance(args[0], FakeTensor) else CPU
            return META if device == CUDA else device
        if kwargs.get("device") == META:
            kwargs["device"] = CUDA
        name = func._schema.name.removeprefix("aten::")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on = {x.device.type for x in tensors} | ({kwargs["device"].type} if kwargs.get("device") is not None else set())
        if "cuda" in on:
            if _waits(name, args, kwargs, tensors, on):
                self.found.append(name)
            self.launches += not func.is_view
            if name.startswith("_fused_"):  # of an optimizer: in place, and unknown to fake tensors
                return None
        if name == "_local_scalar_dense":  # whatever it would be
            return 0
        if name in ("_pin_memory", "pin_memory"):  # takes a driver
            return args[0]
        return func(*args, **kwargs)


def _waits(name: str, args: Any, kwargs: Any, tensors: list[Tensor], on: set[str]) -> bool:
    if name in _INDEXING:
        indices = [x for x in args[1] if x is not None]
        return any(x.dtype == torch.bool or x.device.type == "cpu" for x in indices)
    if name in ("_to_copy", "copy_") and tensors[-1].device.type == "cpu":  # not if it is not to be waited for
        return not (kwargs.get("non_blocking") or args[2:] == (True,))
    scalars = name in _ELEMENTWISE and all(x.dim() == 0 for x in tensors if x.device.type == "cpu")
    return name in _READ_BACK or ("cpu" in on and not scalars)


@contextmanager
def fake_cuda(waits: Waits) -> Iterator[None]:
    """A block whose tensors hold no data, "cuda" or not; those from outside are taken as fake ones of their shape."""
    with FakeTensorMode(allow_non_fake_inputs=True), waits:
        yield


class _NoDevice(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass  # there is none


def fake_fabric() -> Fabric:
    """Fabric that places modules on the fake device."""
    return Fabric(strategy=SingleDeviceStrategy(CUDA, accelerator=_NoDevice()))
