"""Networks whose forward pass is compiled while they train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.models import Network

_LONGEST = 200  # characters of a reason
_SHAPES = 8  # of batches that a network is compiled for, in training and validation; others run uncompiled
_MOST = 10_000  # times that one function is compiled in a process


@contextmanager
def compiled(networks: Iterable[Network]) -> Iterator[None]:
    """A block in which the networks' modules run compiled; their state, and its names, are the same.

    Every shape of batch is compiled for itself: kernels for any shape would depend on which shapes came before, and so
    the last bits of a run on where it was resumed.

    Raises:
        UnderstudyError: one of them cannot be compiled.
    """
    import torch._dynamo.exc as errors  # takes a second, which other runs need not spend

    modules = [network.module for network in networks]
    for module in modules:
        module.compile(dynamic=False)
    # Networks of the same class share what was compiled for one of them, if what was guarded is the same: so that must
    # include the hooks that keep their features, and each may need code of its own.
    guarded = torch._dynamo.config.patch(
        skip_nnmodule_hook_guards=False, recompile_limit=_SHAPES * len(modules), accumulated_recompile_limit=_MOST
    )
    try:
        with guarded:
            yield
    except errors.TorchDynamoException as fault:
        raise UnderstudyError(f"a network cannot be compiled ({_reason(fault)}); leave out --compile") from fault
    finally:
        for module in modules:
            module._compiled_call_impl = None


def why_not_compiled(device: torch.device) -> str:
    """Why nothing can be compiled for a device, as where there is no compiler; "" if something can."""
    try:
        torch.compile(_doubled)(torch.ones(2, device=device))
    except RuntimeError as fault:
        return _reason(fault)
    return ""


def _doubled(x: Tensor) -> Tensor:
    return 2 * x


def _reason(fault: Exception) -> str:
    """The first paragraph, as advice for developers follows."""
    return " ".join(str(fault).strip().partition("\n\n")[0].split())[:_LONGEST]
