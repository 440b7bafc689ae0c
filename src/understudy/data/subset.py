"""Subsets as manifests: JSON files that name samples, so that others can learn from the same ones."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from understudy.data.select import shots
from understudy.data.source import RecordSource, Source
from understudy.errors import UnderstudyError
from understudy.files import write_whole
from understudy.randomness import seed_of


@dataclass(frozen=True)
class Subset:
    """Some samples of a set.

    Attributes:
        data: the set's name.
        shots: how many of each class; 0 where classes differ.
        seed, draw: which of the draws this is; fewer shots of one draw are part of more.
        classes: class name -> its samples: {"id": stable id} and, where the set is of records, "name".
    """

    data: str
    shots: int
    seed: int
    draw: int
    classes: dict[str, list[dict[str, int | str]]]

    @property
    def ids(self) -> list[int]:
        return [int(sample["id"]) for samples in self.classes.values() for sample in samples]

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")

    def rows(self, source: Source) -> Tensor:
        """Row numbers (int64, rising) of the samples in a source; UnderstudyError where it lacks one."""
        ids = torch.tensor(self.ids, dtype=torch.int64)
        missing = ids[~torch.isin(ids, source.ids)].tolist()
        if missing:
            lost = next(s for samples in self.classes.values() for s in samples if s["id"] == missing[0])
            raise UnderstudyError(
                f"{len(missing):,} of the {len(ids):,} samples of the subset of {self.data} are not in the training "
                f"part of {source.name}, {lost.get('name', missing[0])!r} first; give the data that it was drawn from"
            )
        return torch.nonzero(torch.isin(source.ids, ids)).flatten()


def draw_shots(source: Source, count: int, seed: int, draw: int) -> Subset:
    """A balanced subset of `count` samples a class; draws differ, and each is a function of (seed, draw, ids).

    Raises:
        UnderstudyError: a class has fewer samples, or the source no labels.
    """
    rows = shots(source, count, seed_of(seed, draw))
    return Subset(source.name, count, seed, draw, listed(source, source.ids[rows]))


def listed(source: Source, ids: Tensor) -> dict[str, list[dict[str, int | str]]]:
    """Samples of a labelled source as a manifest lists them, class by class."""
    assert source.targets is not None
    classes: dict[str, list[dict[str, int | str]]] = {name: [] for name in source.classes}
    for row in torch.nonzero(torch.isin(source.ids, ids)).flatten().tolist():
        sample: dict[str, int | str] = {"id": int(source.ids[row])}
        if isinstance(source, RecordSource):
            sample["name"] = source.records[row].name
        classes[source.classes[int(source.targets[row])]].append(sample)
    return classes


def read_subset(path: Path) -> Subset:
    """A manifest from its file.

    Raises:
        UnderstudyError: there is none, or it is something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        subset = Subset(**values)
        if not subset.ids or not all(
            isinstance(sample["id"], int) for own in subset.classes.values() for sample in own
        ):
            raise ValueError("it lists no samples")
    except OSError as fault:
        raise UnderstudyError(f"the subset {path} cannot be read ({fault.strerror or fault})") from None
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        raise UnderstudyError(
            f"{path} is no manifest of a subset ({fault}); transfer --shots writes such files: data, shots, seed, "
            "draw, and the classes with the ids of their samples"
        ) from None
    return subset
