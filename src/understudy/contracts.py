"""From a source to what networks are to see of it."""

from __future__ import annotations

from dataclasses import replace

import torch

from understudy.data import ArraySource, Source
from understudy.data.batches import in_order
from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network, seen
from understudy.signals import ASPECTS

# Where no statistics are taken: those of ImageNet's training set.
_NATURAL_MEAN, _NATURAL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SAMPLES, _DECODED = 10_000, 200  # how many are looked at, in memory and where each must be decoded


def modalities_of(source: Source) -> tuple[str, ...]:
    """What a network can see of a source's samples: the modalities it holds, and the image's aspects."""
    held = source.modalities
    image = held.get("image", source).shape
    if "image" not in held or len(image) != 3 or image[0] not in (1, 3):
        return tuple(held)
    aspects = [name for name in ASPECTS if image[0] == 3 or name != "chrominance"]
    return (*aspects, *(held if source.pairs else ()))


def check_seen(source: Source, modality: str) -> None:
    """Complain of a modality that a source lacks; "" is whatever it holds first."""
    known = modalities_of(source)
    if modality and modality not in known:
        raise UnderstudyError(
            f"{source.name} has no {modality} that a network could see; it has {', '.join(known)}, and with "
            f"--pair {modality}=FOLDER it would have that too"
        )


def can_see(source: Source, network: Network) -> bool:
    """Whether a source has what a network sees."""
    return network.contract.modality in ("", *modalities_of(source))


def contract_of(source: Source, modality: str = "") -> InputContract:
    """Shape, classes, and each channel's mean and deviation over up to 10,000 samples, of what is to be seen.

    Of colour images that are decoded as they are used no statistics are taken: they are ImageNet's.

    Raises:
        UnderstudyError: the source lacks the modality.
    """
    check_seen(source, modality)
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
        x = seen(batch.inputs, modality).double()
        x = x.reshape(*x.shape[:2], -1)
        moments.append(torch.stack([x.mean(2), x.square().mean(2)]))
    mean, square = torch.cat(moments, 1).mean(1)
    std = (square - mean.square()).clamp_min(0).sqrt().clamp_min(1e-3)
    return replace(contract, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def tell(network: Network, name: str, modality: str) -> None:
    """Have a network see a modality; "" leaves it as it is.

    Raises:
        UnderstudyError: it was trained to see another one.
    """
    own = network.contract.modality
    if not own and modality in ASPECTS:  # of a net that was not told, the channels tell
        own = {1: "grey", 3: "rgb"}.get(network.contract.shape[0], "something of other channels")
    if modality and own and modality != own:
        raise UnderstudyError(
            f"{name} sees {own}, as it was trained to, and cannot see {modality}; leave the flag out, or train one "
            f"with --sees {modality}"
        )
    network.contract = replace(network.contract, modality=modality or own)
