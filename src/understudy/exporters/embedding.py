"""A network's embedding as a network of its own, to be exported, and what its folder says."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.escaping import markdown, markdown_code
from understudy.exporters.build import ExportedFile
from understudy.exporters.interface import EMBEDDING, INPUT, Interface
from understudy.models import Network, eval_mode
from understudy.reporting.wording import compact, moment


class Normalized(nn.Module):
    """(B, ...) -> (B, D) of unit length."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.flatten(1), dim=1)


def embedding_network(network: Network) -> Network:
    """A network whose output is the embedding of another one, (B, D), normalized; it has no classes.

    Raises:
        UnderstudyError: the module does not end in one classifier that can be taken off.

    >>> from understudy.models import InputContract, build
    >>> network = build("mlp:8", InputContract((2,), (0.0,) * 2, (1.0,) * 2, ("cat", "dog")))
    >>> embedding_network(network)(torch.rand(3, 2)).logits.norm(dim=1).detach().round(decimals=4)
    tensor([1., 1., 1.])
    """
    watched = network.signals
    paths = tuple(network.heads)
    network.watch(())
    body = copy.deepcopy(network.module)
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(body.get_submodule(parent), name, nn.Identity())
    found = Network(nn.Sequential(body, Normalized()), replace(network.contract, classes=()), network.spec)
    sample = torch.rand(2, *network.contract.source_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode(), eval_mode(network), eval_mode(found):
            expected = network.watch({"embedding"})(sample).embedding
            assert expected is not None, "it was watched"
            same = len(paths) == 1 and torch.allclose(found(sample).logits, F.normalize(expected, dim=1), atol=1e-4)
    finally:
        network.watch(watched)
    if not same:
        raise UnderstudyError(
            f"{network.name} does not end in one classifier, so its embedding cannot be exported alone"
        )
    return found.eval()


def embedding_card(name: str, interface: Interface, files: Sequence[ExportedFile], width: int, data: str) -> str:
    """The README.md of a folder of exported embeddings."""
    shape = ", ".join(map(str, ("N", *interface.shape)))
    rows = "\n".join(
        f"| {markdown_code(one.file.name)} | {compact(one.bytes, 'B')} | {moment(one.latency_ms)} | "
        f"{one.worst_difference:.1e} |"
        for one in files
    )
    first = files[0].file.name
    kind = str(interface.dtype).removeprefix("torch.")
    return f"""# {markdown(name)}

The embedding of a network, {width:,} numbers of unit length: the inner product of two is their cosine similarity.

| file | size | latency of one, one thread | largest difference |
|---|---|---|---|
{rows}

Verified against the network on {markdown(data)}. Input `{INPUT}`: {kind} ({shape}); output `{EMBEDDING}`: float32
(N, {width}).

```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession({json.dumps(first)})
x = np.zeros(({shape.replace("N", "2")}), np.{kind})  # two samples
(embeddings,) = session.run(None, {{"{INPUT}": x}})
similarity = embeddings[0] @ embeddings[1]
```
"""
