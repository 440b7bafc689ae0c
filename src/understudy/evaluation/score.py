"""Everything that is said of a run's models on a source: the rows, confusions, pictures and maps of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from understudy.data.source import Source
from understudy.evaluation.correlation import class_correlation, correlation_difference, correlation_maps, mean_logits
from understudy.evaluation.cost import cost, cost_of_all
from understudy.evaluation.gallery import gallery
from understudy.evaluation.logits import Predictions, at_once, logits_of
from understudy.evaluation.metrics import confusion, scores
from understudy.models import Network
from understudy.signals import Batch, Signals

_TITLES = {"alone": "student alone", "distilled": "distilled", "model": "model"}


def score_models(
    test: Source,
    models: Mapping[str, Network],
    teacher: Callable[[Batch], Signals] | None,
    teachers: Sequence[Network],
    temperature: float | None,
    train_ms: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """What is said of some models and their teacher on a source, as `RunFacts` reads it.

    Args:
        models: by role, method where there are several, and number, as "distilled-0" or "distilled-crd-0".
        teacher: answers for all of its networks, `teachers`, together.
        temperature: of the soft targets that the gallery shows; None for no gallery.
        train_ms: what training took for one image, by the names of `models` and "teacher".
    """
    device = torch.device("cpu")
    said = {name: logits_of(network, test, device=device) for name, network in models.items()}
    taught, alike = _taught(teacher, teachers, test, device) if teacher is not None else (None, None)
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


def _taught(
    teacher: Callable[[Batch], Signals], networks: Sequence[Network], test: Source, device: torch.device
) -> tuple[Predictions, Tensor]:
    """The teacher's predictions, and its class correlations, in one pass."""
    logits: list[Tensor] = []

    def answer(batch: Batch) -> Signals:
        signals = teacher(batch)
        logits.append(mean_logits(signals).cpu())
        return signals

    size = at_once(test, *networks)
    return logits_of(answer, test, device=device, batch_size=size), class_correlation(torch.cat(logits))


def _row(name: str, role: str, spec: str, seeds: list[tuple[int, Predictions, Any, float | None]]) -> dict[str, Any]:
    measured = []
    for seed, said, hint, train_ms in seeds:
        assert said.targets is not None
        measured.append({"seed": seed, "train_ms": train_ms} | scores(said.logits, said.targets, hint))
    return {"name": name, "role": role, "model": spec or "module", "seeds": measured}
