"""Representations beside their teacher's: watched while a student learns, and measured at the end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.data import Source
from understudy.data.cache import decoded
from understudy.data.parts import spread
from understudy.errors import UnderstudyError
from understudy.evaluation.cka import linear_cka
from understudy.evaluation.cost import cost, ensemble_cost
from understudy.evaluation.facts.representation import Nearest, RepresentationFacts, Space
from understudy.evaluation.gallery import written
from understudy.evaluation.probe import Embeddings, embed, linear_probe
from understudy.evaluation.representation import (
    check_embeddings,
    effective_rank,
    gap_closed,
    knn_accuracy,
    nearest,
    neighbor_agreement,
    plane,
    side_by_side,
)
from understudy.models import Network
from understudy.signals import Batch
from understudy.teachers.store import Store
from understudy.training import Member

WATCHED = 500
"""Samples that are watched during training."""
_QUERIES, _KEYS = 500, 1000
_MAPPED, _SHOWN, _EACH = 300, 5, 4
_LABELS = {"knn": "k-NN", "neighbors": "neighbors"}  # the first that there is is shown
_COSTS = ("parameters", "flops", "latency_ms")
_TEACHER, _START = "teacher", "start"
Measures = dict[str, float]


@dataclass
class Watch:
    """What members make of samples that they are not trained on: `watch(member)` -> a row of metrics.

    Attributes:
        source: the samples, decoded.
        teacher: (N, D), their embeddings by the teacher.
        start: of each member before its first step.
    """

    source: Source
    device: torch.device
    teacher: Tensor
    start: dict[str, Measures] = field(default_factory=dict)

    def begin(self, members: list[Member]) -> str:
        """Measure the members as they start; returns a line for the console."""
        for member in members:
            member.learner.network.to(self.device)
            self.start[member.name] = self._measures(member.learner.network)
        first, own = next(iter(self.start.values())), self.teacher_measures
        if "knn" not in own:
            del own["neighbors"]  # all, as they are its own
        return f"{len(self.teacher):,} images held out: teacher {_shown(own)}; student at the start {_shown(first)}"

    @property
    def teacher_measures(self) -> Measures:
        return self._of(self.teacher)

    def __call__(self, member: Member) -> dict[str, Any]:
        found, start = self._measures(member.network), self.start.get(member.name)
        key = "knn" if "knn" in found else "neighbors"
        gap = None if start is None else gap_closed(start[key], found[key], self.teacher_measures[key])
        return {"part": "held out", **found, "teacher_rank": self.teacher_measures["rank"], "gap": gap}

    def neighbors(self, network: Network) -> float:
        """The share of nearest neighbors that a network has in common with the teacher."""
        return neighbor_agreement(self._embedded(network), self.teacher)

    def _embedded(self, network: Network) -> Tensor:
        return embed({"student": network}, self.source).by_network["student"]

    def _measures(self, network: Network) -> Measures:
        return self._of(self._embedded(network))

    def _of(self, x: Tensor) -> Measures:
        labeled = {} if self.source.targets is None else {"knn": knn_accuracy(x, self.source.targets)}
        return labeled | {"neighbors": neighbor_agreement(x, self.teacher), "rank": effective_rank(x)}


def watch_of(source: Source, teachers: Mapping[str, Network], store: Store | None, device: torch.device) -> Watch:
    """A watch on some of these samples; of a store, the teacher's answers to the first view of each."""
    some = decoded(spread(source, WATCHED))
    if teachers:
        embedded = embed({name: network.to(device) for name, network in teachers.items()}, some)
        spaces = [check_embeddings(embedded.by_network[name], f"the teacher {name}") for name in teachers]
        kept = some.subset(torch.isin(some.ids, embedded.source.ids).nonzero().flatten())
    else:
        assert store is not None, "there are teachers or their answers"
        spaces, kept = _stored(store, some), some
    return Watch(kept, device, side_by_side(spaces))


def _stored(store: Store, source: Source) -> list[Tensor]:
    """Each teacher's embeddings of samples in their first view."""
    store.watch({"embedding"})
    blank = torch.zeros(len(source), 1)
    signals = store(Batch(source.ids, source.ids, blank, None, view_index=0))
    found = [one.embedding for one in signals.members or (signals,)]
    return [check_embeddings(x.float().cpu(), f"the answers in {store.path}") for x in found if x is not None]


def compare_representations(
    models: Mapping[str, Network], start: Network, teachers: Mapping[str, Network], store: Store | None, train: Source,
    held_out: Source | None, test: Source | None, device: torch.device, folder: Path,
) -> RepresentationFacts | None:  # fmt: skip
    """The facts of distilled models beside the student at the start and its teachers; None without held-out samples.

    On a labeled test part, neighbors are looked for among training samples, and linear probes are fitted to these; else
    neighbors are looked for among the samples that were held out.

    Args:
        models: by name, as "distilled-0".
        folder: of the run, where images are written.
    """
    scored = test is not None and test.targets is not None and train.targets is not None and bool(teachers)
    source = test if scored else held_out
    if source is None or len(source) < 3:
        return None
    networks = {_START: start, **models}
    queries = decoded(spread(source, _QUERIES))
    fitted = decoded(spread(train, _KEYS)) if scored else None
    spaces = {name: network.to(device) for name, network in {**teachers, **networks}.items()}
    x, keys = embed(spaces, queries), None if fitted is None else embed(spaces, fitted)
    for network in spaces.values():
        network.to("cpu")
    both = [x] if keys is None else [x, keys]
    for one in both:
        together = [one.by_network.pop(name) for name in teachers]
        if not teachers:
            assert store is not None, "there are teachers or their answers"
            together = _stored(store, one.source)
        one.by_network[_TEACHER] = side_by_side(together)
    costs: dict[str, dict[str, Any]] = {name: cost(network) for name, network in networks.items()}
    if teachers:
        costs[_TEACHER] = ensemble_cost(list(teachers.values()))
    titles = {name: network.spec or "module" for name, network in networks.items()}
    titles[_TEACHER] = " + ".join(dict.fromkeys(t.spec or "module" for t in teachers.values())) or "answers on the disk"
    measured = {name: _measured(name, x, keys) for name in (_TEACHER, *networks)}
    for name in models:
        for key in ("knn", "probe", "neighbors"):
            values = [measured[one].get(key) for one in (_START, name, _TEACHER)]
            if None not in values:
                measured[name][f"{key}_gap"] = gap_closed(*values)  # type: ignore[arg-type]
    targets = x.source.targets
    planes = {name: plane(x.by_network[name]) for name in measured}
    return RepresentationFacts(
        data=source.name, split="test" if scored else "held-out", queries=len(x.source),
        keys=0 if keys is None else len(keys.source),
        labels=[] if targets is None else targets[:_MAPPED].tolist(),
        projection=planes[_TEACHER][0],
        spaces=[
            Space(
                name=name, role=name if name in (_TEACHER, _START) else "distilled",  # type: ignore[arg-type]
                model=titles[name], width=x.by_network[name].shape[1],
                map=planes[name][1][:_MAPPED].tolist(), **values,
                **{key: value for key, value in costs.get(name, {}).items() if key in _COSTS},
            )
            for name, values in measured.items()
        ],
        nearest=_pictures(x, keys, queries, fitted, [_TEACHER, _START, next(iter(models))], folder),
    )  # fmt: skip


def _measured(name: str, x: Embeddings, keys: Embeddings | None) -> dict[str, Any]:
    own, teacher, targets = x.by_network[name], x.by_network[_TEACHER], x.source.targets
    found: dict[str, Any] = {"rank": effective_rank(own)}
    if name != _TEACHER:
        found |= {"cka": linear_cka(own, teacher)}
    found["neighbors"] = neighbor_agreement(own, teacher)
    if keys is not None:
        found["knn"] = knn_accuracy(own, x.targets, keys.by_network[name], keys.targets)
        with suppress(UnderstudyError):  # of too few samples a class there is no probe
            found["probe"] = linear_probe(keys, x, name).accuracy
    elif targets is not None:
        found["knn"] = knn_accuracy(own, targets)
    return found


def _pictures(
    x: Embeddings, keys: Embeddings | None, queries: Source, fitted: Source | None, names: list[str], folder: Path
) -> list[Nearest]:
    """A few queries, evenly spread, with their nearest samples in each space, written to `folder`/neighbors."""
    rows = torch.linspace(0, len(x.source) - 1, _SHOWN).round().long().unique()
    among, source = (x, queries) if keys is None or fitted is None else (keys, fitted)
    shown = {
        name: nearest(x.by_network[name], None if keys is None else keys.by_network[name], _EACH)[1][rows]
        for name in names
    }
    ids = torch.cat([among.source.ids[index].flatten() for index in shown.values()]).unique()
    files = {int(ids[at]): path for at, path, _ in written(source, ids, folder, "neighbors")}
    asked = {at: path for at, path, _ in written(queries, x.source.ids[rows], folder, "queries")}
    targets, own = x.source.targets, among.source.targets
    pictures = []
    for at, row in enumerate(rows.tolist()):
        found = {name: [files.get(int(among.source.ids[i])) for i in index[at]] for name, index in shown.items()}
        if at not in asked or any(path is None for paths in found.values() for path in paths):
            continue
        same = {} if targets is None or own is None else {
            name: (own[index[at]] == targets[row]).tolist() for name, index in shown.items()
        }  # fmt: skip
        label = "" if targets is None or not queries.classes else queries.classes[int(targets[row])]
        pictures.append(Nearest(image=asked[at], label=label, images=found, same=same))  # type: ignore[arg-type]
    return pictures


def _shown(measures: Measures) -> str:
    shown = next((f"{label} {measures[key]:.1%}, " for key, label in _LABELS.items() if key in measures), "")
    return f"{shown}rank {measures['rank']:.0f}"
