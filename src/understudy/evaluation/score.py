"""The scores, costs, confusions, example images and class correlations of a run's models on a source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.cka import cka_from_covariances
from understudy.evaluation.confidence import coverage_curve
from understudy.evaluation.correlation import class_correlation, correlation_difference, correlation_maps, mean_logits
from understudy.evaluation.cost import cost, ensemble_cost
from understudy.evaluation.covariance import Covariance
from understudy.evaluation.gallery import gallery
from understudy.evaluation.logits import Predictions, default_batch_size, predict_logits
from understudy.evaluation.metrics import confusion, scores
from understudy.evaluation.mistakes import mistakes
from understudy.evaluation.outcomes import packed
from understudy.models import Network, eval_mode
from understudy.signals import Batch, Signals

_TITLES = {"alone": "student alone", "distilled": "distilled", "model": "model"}
_MAX_EMBEDDINGS = 2**28  # numbers that are kept, 1 GiB; CKA is not computed beyond


class Panel(Protocol):
    """A teacher, or several whose outputs are combined."""

    def watch(self, signals: Iterable[str]) -> object: ...
    def __call__(self, batch: Batch) -> Signals: ...


def score_models(
    test: Source,
    models: Mapping[str, Network],
    teacher: Panel | None,
    teachers: Sequence[Network],
    temperature: float | None,
    train_ms: Mapping[str, float] = MappingProxyType({}),
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    skipped: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Evaluate models and their teacher on a source: the results in `RunFacts`, as JSON values.

    Args:
        models: By role, method if there are several, and number, as in "distilled-0" or "distilled-crd-0".
        teacher: The combined outputs of all `teachers`.
        temperature: Of the soft targets shown in the gallery; None for no gallery.
        train_ms: Training time per image, by the keys of `models` and "teacher".
        device: Of `teacher`, and where the models are run. Latency is measured on the CPU, where `models` are.
        folder: Where images are written, of the gallery and of mistakes; None for neither.
        skipped: Record name -> reason, filled in for records that could not be decoded.
    """
    device = torch.device(device)
    targets, correlation, layer = None, None, None
    if teacher is not None:
        targets, logits, embeddings = _run(teacher, test, device, default_batch_size(test, *teachers), skipped)
        correlation = class_correlation(logits)
        layer = None if embeddings is None else (embeddings, Covariance().update(embeddings))
    predictions: dict[str, Predictions] = {}
    cka: dict[str, float | None] = {}
    for name, network in models.items():
        size = default_batch_size(test, network)
        predictions[name], _, embeddings = _run(
            network.to(device), test, device, size, skipped, layers=layer is not None
        )
        network.to("cpu")
        cka[name] = _cka(embeddings, layer)
    teacher_logits = None if targets is None else targets.logits
    rows: list[dict[str, Any]] = []
    if targets is not None:
        spec = teachers[0].spec if len({t.spec for t in teachers}) == 1 else "several"
        title = f"{len(teachers)} x {spec}" if len(teachers) > 1 else spec
        row = _row("teacher", "teacher", title, [(0, targets, None, train_ms.get("teacher"))])
        rows.append(row | ensemble_cost(teachers))
    confusions: dict[str, Any] = {}
    first: dict[str, Predictions] = {}
    correlations: list[tuple[str, str, list[Tensor]]] = []
    groups = dict.fromkeys(name.rpartition("-")[0] for name in predictions)
    for group in sorted(groups, key=lambda group: not group.startswith("alone")):  # otherwise in the given order
        role, _, method = group.partition("-")
        members = {name: one for name, one in predictions.items() if name.rpartition("-")[0] == group}
        network = models[next(iter(members))]
        seeds = [
            (int(name.rpartition("-")[2]), one, teacher_logits, train_ms.get(name)) for name, one in members.items()
        ]
        rows.append(_row(method or _TITLES[role], role, network.spec, seeds) | cost(network))
        if correlation is not None:
            correlations.append((rows[-1]["name"], role, [class_correlation(one.logits) for one in members.values()]))
            for name, seed, own in zip(members, rows[-1]["seeds"], correlations[-1][2], strict=True):
                seed["correlation_difference"] = correlation_difference(own, correlation)
                seed["cka"] = cka.get(name)
        if role not in first:
            first[role] = next(iter(members.values()))
            tables = [confusion(one.logits, one.targets) for one in members.values() if one.targets is not None]
            confusions[role] = torch.stack(tables).double().mean(0).tolist()
    confidence, wrong = _confidence(rows, first, targets), []
    if confidence is not None and folder is not None:
        wrong = mistakes(test, first[confidence["role"]], targets, folder)
    first.pop("model", None)
    pictures = []
    if targets is not None and temperature is not None and folder is not None:
        pictures = gallery(test, {"teacher": targets} | first, temperature, folder)
    scored = next(iter(predictions.values()), targets)
    examples = len(test) if scored is None else len(scored)
    return {
        "data": {"name": test.name, "split": "test", "examples": examples, "classes": list(test.classes)},
        "rows": rows,
        "confusions": {"classes": list(test.classes)} | confusions,
        "gallery": [picture.model_dump() for picture in pictures],
        "confidence": confidence,
        "mistakes": [mistake.model_dump() for mistake in wrong],
        "correlations": None if correlation is None else correlation_maps(correlation, correlations, test.classes),
    }


def _run(
    model: Network | Panel, test: Source, device: torch.device, size: int, skipped: dict[str, str] | None,
    *, layers: bool = True,
) -> tuple[Predictions, Tensor, Tensor | None]:  # fmt: skip
    """Predictions, logits (N, C) (of an ensemble the mean), and penultimate layers (N, D) if they fit, in one pass."""
    logits: list[Tensor] = []
    embeddings: list[Tensor] = []
    room = _MAX_EMBEDDINGS

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
        model.watch(before)  # a network without a classifier has no penultimate layer
    try:
        with eval_mode(model):
            predictions = predict_logits(answer, test, device=device, batch_size=size, skipped=skipped)
    finally:
        model.watch(before)
    return predictions, torch.cat(logits), torch.cat(embeddings) if embeddings and room >= 0 else None


def _cka(embeddings: Tensor | None, layer: tuple[Tensor, Covariance] | None) -> float | None:
    """The linear CKA with the teacher's embeddings, given with their covariance; None if it is undefined."""
    if embeddings is None or layer is None:
        return None
    cross, own = Covariance().update(embeddings, layer[0]), Covariance().update(embeddings)
    found = cka_from_covariances(cross, own, layer[1])
    return found if isfinite(found) else None


def _row(
    name: str, role: str, spec: str, seeds: Sequence[tuple[int, Predictions, Tensor | None, float | None]]
) -> dict[str, Any]:
    """Scores per seed, from the seed, predictions, teacher's logits and training time per image."""
    measured = []
    for seed, predictions, teacher_logits, train_ms in seeds:
        assert predictions.targets is not None
        right = packed(predictions.logits.argmax(1) == predictions.targets)
        measured.append(
            {"seed": seed, "train_ms": train_ms, "right": right}
            | scores(predictions.logits, predictions.targets, teacher_logits)
        )
    return {"name": name, "role": role, "model": spec or "module", "seeds": measured}


def _confidence(
    rows: Sequence[Mapping[str, Any]], first: Mapping[str, Predictions], teacher: Predictions | None
) -> dict[str, Any] | None:
    """The `Confidence` of the first seed of the distilled student, or else of the only model."""
    role = next((role for role in ("distilled", "model", "alone") if role in first), None)
    if role is None:
        return None
    row, shown = next(row for row in rows if row["role"] == role), first[role]
    assert shown.targets is not None
    other = teacher.logits if teacher is not None and torch.equal(teacher.ids, shown.ids) else None
    about = {"name": row["name"], "role": role, "seed": row["seeds"][0]["seed"]}
    return about | coverage_curve(shown.logits, shown.targets, other)
