"""Subset manifests: JSON files that list samples by id, so that an experiment can be repeated on the same ones."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from understudy.data.select import shots
from understudy.data.source import RecordSource, Source
from understudy.errors import UnderstudyError
from understudy.files import write_whole
from understudy.randomness import seed_of


@dataclass(frozen=True)
class Subset:
    """A selection of samples.

    (seed, draw) is the key of the random draw; with the same key, fewer shots are a subset of more.
    """

    data: str
    shots: int  # per class; 0 if classes differ
    seed: int
    draw: int
    classes: dict[str, list[dict[str, int | str]]]  # samples, each {"id": stable id} and, for records, "name"

    @property
    def ids(self) -> list[int]:
        return [int(sample["id"]) for samples in self.classes.values() for sample in samples]

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")

    def rows(self, source: Source) -> Tensor:
        """Row indices (int64, ascending) of the samples in a source, which must have them all."""
        ids = torch.tensor(self.ids, dtype=torch.int64)
        missing = ids[~torch.isin(ids, source.ids)].tolist()
        if missing:
            first = next(s for samples in self.classes.values() for s in samples if s["id"] == missing[0])
            raise UnderstudyError(
                f"{len(missing):,} of the {len(ids):,} samples of the subset of {self.data} are not in the training "
                f"split of {source.name}, e.g. {first.get('name', missing[0])!r}; use the data it was drawn from"
            )
        return torch.nonzero(torch.isin(source.ids, ids)).flatten()


def draw_shots(source: Source, count: int, seed: int, draw: int) -> Subset:
    """Draw a balanced subset of `count` samples per class, as a pure function of (seed, draw, ids).

    >>> source = Source("toy", ("a", "b"), torch.arange(100), torch.arange(100) % 2, (1,))
    >>> subset = draw_shots(source, 3, seed=0, draw=0)
    >>> {name: len(samples) for name, samples in subset.classes.items()}
    {'a': 3, 'b': 3}
    """
    rows = shots(source, count, seed_of(seed, draw))
    return Subset(source.name, count, seed, draw, manifest_classes(source, source.ids[rows]))


def manifest_classes(source: Source, ids: Tensor) -> dict[str, list[dict[str, int | str]]]:
    """The `classes` of a manifest for some samples of a labeled source."""
    assert source.targets is not None
    classes: dict[str, list[dict[str, int | str]]] = {name: [] for name in source.classes}
    for row in torch.nonzero(torch.isin(source.ids, ids)).flatten().tolist():
        sample: dict[str, int | str] = {"id": int(source.ids[row])}
        if isinstance(source, RecordSource):
            sample["name"] = source.records[row].name
        classes[source.classes[int(source.targets[row])]].append(sample)
    return classes


def read_subset(path: Path) -> Subset:
    """Read a subset manifest.

    Raises:
        UnderstudyError: no such file, or no manifest of distinct samples.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")
        subset = TypeAdapter(Subset).validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        reason = error.strerror or error
        raise UnderstudyError(f"the subset manifest {path} cannot be read ({reason}); check the path") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"][:2])
        raise _not_a_manifest(path, f"{where}: {first['msg']}" if where else first["msg"]) from None
    ids = [sample.get("id") for samples in subset.classes.values() for sample in samples]
    if not ids or not all(isinstance(each, int) and -(2**63) <= each < 2**63 for each in ids):
        raise _not_a_manifest(path, "it lists no samples, or one without an id")
    if len(set(ids)) < len(ids):
        raise _not_a_manifest(path, "it lists a sample twice")
    return subset


def _not_a_manifest(path: Path, reason: str) -> UnderstudyError:
    return UnderstudyError(
        f"{path} is not a subset manifest ({reason}); transfer --shots writes such files, with data, shots, seed, "
        "draw, and the sample ids of each class"
    )
