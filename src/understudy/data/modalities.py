"""Modalities of a source: the ones it stores, and those derived from color images."""

from __future__ import annotations

from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.signals import ASPECTS


def modalities_of(source: Source) -> tuple[str, ...]:
    """Modalities a network can take as input: the stored ones and, of images, the derived ones.

    >>> from understudy.data import open_source
    >>> modalities_of(open_source("digits").train)
    ('rgb', 'gray', 'luminance')
    """
    stored = source.modalities
    shape = stored.get("image", source).shape
    if "image" not in stored or len(shape) != 3 or shape[0] not in (1, 3):
        return tuple(stored)
    derived = [name for name in ASPECTS if shape[0] == 3 or name != "chrominance"]
    return (*derived, *(stored if source.pairs else ()))


def check_modality(source: Source, modality: str) -> None:
    """Raise UnderstudyError if a source lacks a modality; "" stands for its first one."""
    available = modalities_of(source)
    if modality and modality not in available:
        raise UnderstudyError(
            f"{source.name} has no modality {modality!r}, only {', '.join(available)}; add it with "
            f"--pair {modality}=FOLDER"
        )
