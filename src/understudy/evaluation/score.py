"""Everything that is said of a run's models on a source: the rows, confusions, pictures and maps of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.cka import CrossCovariance, alignment, covariance
from understudy.evaluation.correlation import class_correlation, correlation_difference, correlation_maps, mean_logits
from understudy.evaluation.cost import cost, cost_of_all
from understudy.evaluation.gallery import gallery
from understudy.evaluation.logits import Predictions, at_once, evaluating, logits_of
from understudy.evaluation.metrics import confusion, scores
from understudy.models import Network
from understudy.signals import Batch, Signals

_TITLES = {"alone": "student alone", "distilled": "distilled", "model": "model"}
_KEPT = 2**28  # numbers of a network's embeddings, 1 GiB: of more there is no CKA


class Panel(Protocol):
    """One teacher, or several that answer together."""

    def watch(self, signals: Iterable[str]) -> object: ...
    def __call__(self, batch: Batch) -> Signals: ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a model answered: (N, C) logits, of an ensemble its members' mean; (N, D) embeddings, or None."""

    said: Predictions
    logits: Tensor
    embeddings: Tensor | None


def score_models(
    test: Source,
    models: Mapping[str, Network],
    teacher: Panel | None,
    teachers: Sequence[Network],
    temperature: float | None,
    train_ms: Mapping[str, float] = MappingProxyType({}),
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """What is said of some models and their teacher on a source, as `RunFacts` reads it.

    Args:
        models: by role, method where there are several, and number, as "distilled-0" or "distilled-crd-0".
        teacher: answers for all of its networks, `teachers`, together.
        temperature: of the soft targets that the gallery shows; None for no gallery.
        train_ms: what training took for one image, by the names of `models` and "teacher".
        device: where `teacher` lies and the models answer. Latency is of the CPU, where `models` and `teachers` lie.
    """
    device = torch.device(device)
    taught, alike, layer = None, None, None
    if teacher is not None:
        seen = _look(teacher, test, device, at_once(test, *teachers))
        taught, alike = seen.said, class_correlation(seen.logits)
        layer = None if seen.embeddings is None else (seen.embeddings, covariance(seen.embeddings, seen.embeddings))
    said: dict[str, Predictions] = {}
    cka: dict[str, float | None] = {}
    for name, network in models.items():
        seen = _look(network.to(device), test, device, at_once(test, network), layers=layer is not None)
        network.to("cpu")
        said[name], cka[name] = seen.said, _cka(seen.embeddings, layer)
    hint = None if taught is None else taught.logits
    rows: list[dict[str, Any]] = []
    if taught is not None:
        spec = teachers[0].spec if len({t.spec for t in teachers}) == 1 else "several"
        title = f"{len(teachers)} x {spec}" if len(teachers) > 1 else spec
        rows.append(
            _row("teacher", "teacher", title, [(0, taught, None, train_ms.get("teacher"))]) | cost_of_all(teachers)
        )
    mean: dict[str, Any] = {}
    first: dict[str, Predictions] = {}
    learnt: list[tuple[str, str, list[Tensor]]] = []
    groups = dict.fromkeys(name.rpartition("-")[0] for name in said)
    for group in sorted(groups, key=lambda group: not group.startswith("alone")):  # else in the order given
        role, _, method = group.partition("-")
        own = {name: answer for name, answer in said.items() if name.rpartition("-")[0] == group}
        network = models[next(iter(own))]
        seeds = [(int(name.rpartition("-")[2]), answer, hint, train_ms.get(name)) for name, answer in own.items()]
        rows.append(_row(method or _TITLES[role], role, network.spec, seeds) | cost(network))
        if alike is not None:
            learnt.append((rows[-1]["name"], role, [class_correlation(answer.logits) for answer in own.values()]))
            for seed, found in zip(rows[-1]["seeds"], learnt[-1][2], strict=True):
                seed["correlation_difference"] = correlation_difference(found, alike)
            for name, seed in zip(own, rows[-1]["seeds"], strict=True):
                seed["cka"] = cka.get(name)
        if role not in first:
            first[role] = next(iter(own.values()))
            tables = [confusion(answer.logits, answer.targets) for answer in own.values() if answer.targets is not None]
            mean[role] = torch.stack(tables).double().mean(0).tolist()
    first.pop("model", None)
    pictures = []
    if taught is not None and temperature is not None:
        pictures = gallery(test, {"teacher": taught} | first, test.classes, temperature)
    return {
        "data": {"name": test.name, "split": "test", "examples": len(test), "classes": list(test.classes)},
        "rows": rows,
        "confusions": {"classes": list(test.classes)} | mean,
        "gallery": pictures,
        "correlations": None if alike is None else correlation_maps(alike, learnt, test.classes),
    }


def _look(model: Network | Panel, test: Source, device: torch.device, size: int, *, layers: bool = True) -> _Seen:
    """What a model says of a source and, where they can be kept, its penultimate layer's embeddings, in one pass."""
    logits: list[Tensor] = []
    embeddings: list[Tensor] = []
    room = _KEPT

    def answer(batch: Batch) -> Signals:
        nonlocal room
        signals = model(batch)
        logits.append(mean_logits(signals).cpu())
        if signals.embedding is not None and room >= 0:
            room -= signals.embedding.numel()
            embeddings.append(signals.embedding.float().cpu())
        return signals

    before = model.signals if isinstance(model, Network) else ()
    try:
        if layers:
            model.watch({"embedding"})
    except UnderstudyError:
        model.watch(before)  # a net without a classifier, whose layers are not compared
    try:
        with evaluating(model):
            said = logits_of(answer, test, device=device, batch_size=size)
    finally:
        model.watch(before)
    return _Seen(said, torch.cat(logits), torch.cat(embeddings) if embeddings and room >= 0 else None)


def _cka(embeddings: Tensor | None, layer: tuple[Tensor, CrossCovariance] | None) -> float | None:
    """The linear CKA with the teacher's embeddings, which come with their own covariance; None without a number."""
    if embeddings is None or layer is None:
        return None
    found = alignment(covariance(embeddings, layer[0]), covariance(embeddings, embeddings), layer[1])
    return found if isfinite(found) else None


def _row(name: str, role: str, spec: str, seeds: list[tuple[int, Predictions, Any, float | None]]) -> dict[str, Any]:
    measured = []
    for seed, said, hint, train_ms in seeds:
        assert said.targets is not None
        measured.append({"seed": seed, "train_ms": train_ms} | scores(said.logits, said.targets, hint))
    return {"name": name, "role": role, "model": spec or "module", "seeds": measured}
