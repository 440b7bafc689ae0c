"""Datasets: opening them, selecting samples, augmentation and batches."""

from understudy.data.formats.build import typical_size
from understudy.data.formats.catalog import NAMED
from understudy.data.formats.torchvision import default_root
from understudy.data.modalities import check_modality, modalities_of
from understudy.data.open import open_source
from understudy.data.select import fraction, hash_split, omit_classes, only_classes, stratified_sample, stratified_split
from understudy.data.source import (
    ArraySource,
    RecordSource,
    Source,
    Splits,
    Unreadable,
    concatenated,
    resize_square,
    with_unlabeled,
)
from understudy.data.subset import Subset, draw_shots, read_subset
from understudy.data.vtab import GROUPS, group_of, vtab_subsets

__all__ = [
    "GROUPS", "NAMED", "ArraySource", "RecordSource", "Source", "Splits", "Subset", "Unreadable", "check_modality",
    "concatenated", "default_root", "draw_shots", "fraction", "group_of", "hash_split",
    "modalities_of", "omit_classes", "only_classes", "open_source", "read_subset", "resize_square",
    "stratified_sample", "stratified_split", "typical_size", "vtab_subsets", "with_unlabeled",
]  # fmt: skip
