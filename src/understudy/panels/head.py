"""Initializing a specialist from a generalist: the same network with a head over fewer classes and a dustbin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from understudy.errors import UnderstudyError
from understudy.models.build import load_network, start_from
from understudy.models.network import Network
from understudy.models.stages import find_head


def narrow_head(path: Path, group: Sequence[str], dustbin: str) -> Network:
    """Load a network and replace its head by one over `(*group, dustbin)`; all other weights are kept.

    Classes of the group keep their rows of the head. The dustbin's row is the mean of the others, with the log of
    their number added to the bias: a lower bound on their summed probability, exact if their logits are equal.
    """
    whole, fresh = load_network(path), start_from(path, (*group, dustbin))
    unknown = [name for name in group if name not in whole.classes]
    if unknown:
        raise UnderstudyError(f"{path} has no class {unknown[0]!r}; pass a generalist that was trained on this data")
    head, new = (network.module.get_submodule(find_head(network.module)) for network in (whole, fresh))
    own = [whole.classes.index(name) for name in group]
    others = [i for i, name in enumerate(whole.classes) if name not in group]
    state = head.state_dict()
    if len(state["weight"]) != len(whole.classes):
        raise UnderstudyError(f"the last layer of {path} lacks one row per class; pass a generalist with a linear head")
    if "bias" in state and whole.class_bias is not None:
        state["bias"] = state["bias"] + whole.class_bias
    offset = math.log(len(others))
    dustbin_rows = {name: x[others].mean(0, keepdim=True) + offset * (name == "bias") for name, x in state.items()}
    new.load_state_dict({name: torch.cat([x[own], dustbin_rows[name]]) for name, x in state.items()})
    fresh.init_from = (
        f"initialized from {path}: the head's rows of {len(group)} classes, and one for the other {len(others)}"
    )
    return fresh
