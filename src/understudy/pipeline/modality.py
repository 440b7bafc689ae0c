"""What networks read of a source's samples: shape, statistics, modality."""

from __future__ import annotations

from dataclasses import replace

import torch

from understudy.data import ArraySource, Source
from understudy.data.loader import in_order
from understudy.data.modalities import check_modality, modalities_of
from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network, select_modality
from understudy.signals import ASPECTS

# ImageNet's statistics, for color images that are decoded on the fly
_NATURAL_MEAN, _NATURAL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SAMPLES, _DECODED = 10_000, 200  # samples that statistics are taken of: in memory, and where each must be decoded


def can_read(source: Source, network: Network) -> bool:
    """Whether a source has the modality that a network reads."""
    return network.contract.modality in ("", *modalities_of(source))


def contract_of(source: Source, modality: str = "") -> InputContract:
    """Shape, classes, and the mean and standard deviation of each channel over up to 10,000 samples.

    Color images that are decoded on the fly get ImageNet's mean and standard deviation.

    Raises:
        UnderstudyError: the source lacks the modality.
    """
    check_modality(source, modality)
    shape = source.modalities.get(modality, source).shape
    if modality in ASPECTS and modality not in source.modalities:
        shape = (ASPECTS[modality], *source.modalities["image"].shape[1:])
    contract = InputContract(shape, _NATURAL_MEAN, _NATURAL_STD, source.classes, modality=modality)
    decoded = not isinstance(source, ArraySource)
    if decoded and modality in ("", "image", "rgb"):
        return contract
    rows = torch.arange(0, len(source), max(len(source) // (_DECODED if decoded else _SAMPLES), 1))
    moments = []
    for batch in in_order(source.subset(rows), 50 if decoded else 500, torch.device("cpu")):
        x = select_modality(batch.inputs, modality).double()
        x = x.reshape(*x.shape[:2], -1)
        moments.append(torch.stack([x.mean(2), x.square().mean(2)]))
    mean, square = torch.cat(moments, 1).mean(1)
    std = (square - mean.square()).clamp_min(0).sqrt().clamp_min(1e-3)
    return replace(contract, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def set_modality(network: Network, name: str, modality: str) -> None:
    """Have a network read a modality; "" leaves it as it is.

    Args:
        name: of the network, for the message.

    Raises:
        UnderstudyError: it was trained on another one.
    """
    own = network.contract.modality
    if not own and modality in ASPECTS:  # where nothing was declared, the number of channels decides
        own = {1: "gray", 3: "rgb"}.get(network.contract.shape[0], "another number of channels")
    if modality and own and modality != own:
        raise UnderstudyError(
            f"{name} was trained on {own} and cannot read {modality}; leave the flag out, or train a network with "
            f"--modality {modality}"
        )
    network.contract = replace(network.contract, modality=modality or own)
