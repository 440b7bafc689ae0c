"""Initializing a specialist from a generalist: the same network with a head over fewer classes and a dustbin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from understudy.errors import UnderstudyError
from understudy.models.build import load_network, start_from
from understudy.models.network import Network


def narrow_head(path: Path, group: Sequence[str], dustbin: str) -> Network:
    """Load a network and replace its head by one over `(*group, dustbin)`; all other weights are kept.

    Classes of the group keep their rows of the head. The dustbin's row is the mean of the others, with the log of
    their number added: a lower bound on their summed probability, exact if their logits are equal. Of a network with
    several heads each is narrowed, and what is added to the logits is the class bias, as no head's share is known.
    """
    whole, fresh = load_network(path), start_from(path, (*group, dustbin))
    unknown = [name for name in group if name not in whole.classes]
    if unknown:
        raise UnderstudyError(f"{path} has no class {unknown[0]!r}; pass a generalist that was trained on this data")
    own = [whole.classes.index(name) for name in group]
    others = [i for i, name in enumerate(whole.classes) if name not in group]
    added = torch.zeros(len(whole.classes)) if whole.class_bias is None else whole.class_bias
    added = torch.cat([added[own], added[others].mean(0, keepdim=True) + math.log(len(others))])
    for place, head in whole.heads.items():
        state = head.state_dict()
        rows = {name: torch.cat([x[own], x[others].mean(0, keepdim=True)]) for name, x in state.items()}
        if len(whole.heads) == 1 and "bias" in rows:
            rows["bias"], added = rows["bias"] + added, torch.zeros_like(added)
        fresh.heads[place].load_state_dict(rows)
    if added.any():
        fresh.set_class_bias(added)
    fresh.init_from = (
        f"initialized from {path}: the head's rows of {len(group)} classes, and one for the other {len(others)}"
    )
    return fresh
