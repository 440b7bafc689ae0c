"""Messages about records that could not be decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


def count_skip_reasons(skipped: Mapping[str, str]) -> dict[str, int]:
    """Number of skipped records per reason, the most frequent first."""
    return dict(Counter(skipped.values()).most_common())


def describe_skipped(part: str, skipped: Mapping[str, str]) -> str:
    """One line on the skipped records of a part.

    >>> describe_skipped("train", {"a.jpg": "empty file", "b.jpg": "not an image", "c.jpg": "empty file"})
    'train: 3 skipped (2 empty file; 1 not an image)'
    """
    reasons = "; ".join(f"{n:,} {why}" for why, n in count_skip_reasons(skipped).items())
    return f"{part}: {len(skipped):,} skipped ({reasons})"
