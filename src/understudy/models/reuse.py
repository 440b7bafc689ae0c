"""Students with a teacher's classifier behind a projection of their own features (SimKD, Chen et al. 2022)."""

from __future__ import annotations

import re

import torch
from torch import nn

from understudy.errors import UnderstudyError
from understudy.models.network import Network
from understudy.objectives.simkd import Projector, features_of, projector_for

_MOST_WEIGHTS = 100_000_000


def reuse_classifier(network: Network, teacher: Network, factor: int, seed: int) -> None:
    """Have a student predict through a new projector and the classifier of a teacher, which is not trained.

    The projector stands before the global pooling if both networks pool maps into what their classifier reads, else
    before the classifier. The student's name has it as an option, `projector=OUTxBOTTLENECKxHEIGHTxWIDTH`, so that
    its weights file can be loaded.

    Raises:
        UnderstudyError: a network has no classifier, or several.
    """
    if not network.spec:
        raise UnderstudyError("simkd changes the student's head; name a model in place of a module made in Python")
    own, other = network.shapes(()), teacher.shapes(())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = projector_for(features_of(own, other), features_of(other, own), factor)
    _insert(network, projector, _only_head(teacher).weight.shape[1])
    first = projector.layers[0]
    assert isinstance(first, (nn.Conv2d, nn.Linear))
    numbers = (_only_head(teacher).weight.shape[1], first.weight.shape[0], *projector.size)
    network.spec += f"{'&' if '?' in network.spec else '?'}projector={'x'.join(map(str, numbers))}"
    source, head = _only_head(teacher), _only_head(network)
    with torch.no_grad():
        head.weight.copy_(source.weight)
        head.bias.copy_(torch.zeros_like(head.bias) if source.bias is None else source.bias)
    network.class_bias = None if teacher.class_bias is None else teacher.class_bias.detach().clone()
    head.requires_grad_(False)


def add_projector(network: Network, text: str) -> None:
    """Build a projector and a classifier into a network, as an option of its name says.

    Raises:
        UnderstudyError: it is none, or does not fit the network.
    """
    numbers = [int(number) for number in text.split("x")] if re.fullmatch(r"\d{1,5}(x\d{1,5}){1,3}", text) else []
    if len(numbers) not in (2, 4) or not all(numbers) or 9 * max(numbers) * numbers[1] > _MOST_WEIGHTS:
        raise UnderstudyError(
            f"projector={text} is none; write OUTxBOTTLENECKxHEIGHTxWIDTH, or OUTxBOTTLENECK of embeddings"
        )
    out, bottleneck, *size = numbers
    shapes = network.shapes(())
    if size and not shapes.maps:
        raise UnderstudyError(f"{network.name} pools no maps to project; write projector={out}x{bottleneck}")
    width = shapes.maps[0] if size else shapes.embedding
    _insert(network, Projector(width, bottleneck, out, tuple(size)), out)


def _only_head(network: Network) -> nn.Linear:
    heads = list(network.heads.values())
    if len(heads) > 1 or not isinstance(heads[0], nn.Linear):
        raise UnderstudyError(f"simkd reuses one linear classifier, and {network.name} has none; use another network")
    return heads[0]


def _insert(network: Network, projector: Projector, width: int) -> None:
    """A projector before the pooling or the classifier, and a classifier of that width."""
    _only_head(network)
    (path,), pool = network.head_paths, network.pool_path
    device = network.mean.device
    head: nn.Module = nn.Linear(width, len(network.classes), device=device)
    projector.to(device)
    if projector.size:
        _replace(network.module, pool, nn.Sequential(projector, network.module.get_submodule(pool)))
    else:
        head = nn.Sequential(projector, head)
    _replace(network.module, path, head)
    network.forget_paths()


def _replace(module: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)
