"""Data: sources of samples, and what to take from them."""

from understudy.data.gather import ARRAY_BYTES, DEFAULT_SIZE, typical_size
from understudy.data.named_sets import NAMED, NamedSet
from understudy.data.open import open_source
from understudy.data.select import fraction, in_proportion, omit_classes, only_classes, stratified_split
from understudy.data.source import (
    ArraySource,
    Record,
    RecordSource,
    Source,
    Splits,
    Unreadable,
    joined,
    lengthened,
    squashed,
)
from understudy.data.subset import Subset, draw_shots, read_subset
from understudy.data.vtab import GROUPS, group_of, vtab_subsets

__all__ = [
    "ARRAY_BYTES",
    "DEFAULT_SIZE",
    "GROUPS",
    "NAMED",
    "ArraySource",
    "NamedSet",
    "Record",
    "RecordSource",
    "Source",
    "Splits",
    "Subset",
    "Unreadable",
    "draw_shots",
    "fraction",
    "group_of",
    "in_proportion",
    "joined",
    "lengthened",
    "omit_classes",
    "only_classes",
    "open_source",
    "read_subset",
    "squashed",
    "stratified_split",
    "typical_size",
    "vtab_subsets",
]
