"""Facts of a search: queries with the nearest images of a collection."""

from __future__ import annotations

from understudy.evaluation.facts.base import Facts


class Neighbor(Facts):
    """One image that was found, by its path and its cosine similarity; `picture` is a small JPEG in base64."""

    path: str
    similarity: float
    picture: str = ""


class Query(Facts):
    """A query and what is nearest to it, nearest first; `error` says why it could not be read."""

    path: str
    picture: str = ""
    neighbors: list[Neighbor] = []
    error: str | None = None


class NeighborFacts(Facts):
    """A search.

    >>> NeighborFacts(model="run", images=3, queries=[Query(path="a.jpg")]).queries[0].neighbors
    []
    """

    model: str
    images: int  # that were searched
    skipped: int = 0  # that could not be read
    queries: list[Query] = []
