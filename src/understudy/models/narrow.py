"""A network that knows all classes, begun again as one that knows a few and calls the rest by one name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.models.build import load_network, start_from
from understudy.models.network import Network
from understudy.models.stages import find_head


def narrow(path: Path, group: Sequence[str], dustbin: str) -> Network:
    """A saved network whose head answers `(*group, dustbin)`, with all else as it is.

    Each class of the group keeps its row of the head. The dustbin's is the mean row of the others', raised by the log
    of their number: the sum of their probabilities where they are alike, and never more than it.

    Raises:
        UnderstudyError: the network does not know a class of the group, or its last layer has no row a class.
    """
    whole, fresh = load_network(path), start_from(path, (*group, dustbin))
    unknown = [name for name in group if name not in whole.classes]
    if unknown:
        raise UnderstudyError(f"{path} does not know the class {unknown[0]!r}; give the generalist of this data")
    head, new = (network.module.get_submodule(find_head(network.module)) for network in (whole, fresh))
    own = [whole.classes.index(name) for name in group]
    others = [i for i in range(len(whole.classes)) if i not in set(own)]
    state = head.state_dict()
    if len(state["weight"]) != len(whole.classes):
        raise UnderstudyError(f"the last layer of {path} does not answer class by class, so it cannot be narrowed")
    if "bias" in state and whole.class_bias is not None:
        state["bias"] = state["bias"] + whole.class_bias
    narrowed = {name: _rows(x, own, others, math.log(len(others)) * (name == "bias")) for name, x in state.items()}
    new.load_state_dict(narrowed)
    fresh.began = (
        f"began from {path}, with its head's rows of {len(group)} classes and one for the {len(others)} others"
    )
    return fresh


def _rows(x: Tensor, own: list[int], others: list[int], raised: float) -> Tensor:
    return torch.cat([x[own], x[others].mean(0, keepdim=True) + raised])
