"""Evaluating a panel of specialists against its generalist (Hinton, Vinyals and Dean 2015, tables 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from understudy.data.loader import in_order
from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.cost import cost, flops, parameters, time_ms
from understudy.evaluation.metrics import scores
from understudy.models import Network

if TYPE_CHECKING:
    from understudy.panels.panel import SpecialistPanel

_BATCH = 500
_TIMED = 64  # images over which the latency is measured


@dataclass(frozen=True)
class PanelPredictions:
    """A panel's predictions for a labeled source, on the CPU."""

    targets: Tensor  # (N,) int64
    general: Tensor  # (N, C) the generalist's logits
    joint: Tensor  # (N, C) the panel's log-probabilities
    active: Tensor  # (N, M) bool, which specialists are active
    steps: int  # maximum number of fusion steps


def predict_panel(panel: SpecialistPanel, source: Source) -> PanelPredictions:
    """Predict a labeled source on the CPU, in order and without augmentation."""
    if source.targets is None:
        raise UnderstudyError(f"{source.name} has no labels; evaluating specialists needs labeled data")
    columns: list[tuple[Tensor, ...]] = []
    steps = 0
    for batch in in_order(source, _BATCH, torch.device("cpu")):
        if not len(batch):
            continue
        assert batch.targets is not None
        output = panel.consult(batch)
        columns.append((batch.targets, output.general.logits.float(), output.fused.log_probs.float(), output.active))
        steps = max(steps, output.fused.steps)
    if not columns:
        raise UnderstudyError(f"no sample of {source.name} could be read; check its files")
    targets, general, joint, active = (torch.cat(column) for column in zip(*columns, strict=True))
    return PanelPredictions(targets, general, joint, active, steps)


def conditional_correct(logits: Tensor, targets: Tensor, group: tuple[int, ...]) -> Tensor:
    """(n,) mask over the samples of a group: whether the top class among the group's is correct.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, 9.0], [3.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
        >>> conditional_correct(logits, torch.tensor([0, 1, 2]), (0, 1)).tolist()
        [True, False]
    """
    members = torch.tensor(group)
    rows = torch.isin(targets, members)
    return members[logits[rows][:, members].argmax(1)] == targets[rows]


def conditional_accuracy(logits: Tensor, targets: Tensor, groups: list[tuple[int, ...]]) -> float:
    """Conditional accuracy: over each group's samples, with predictions restricted to its classes (table 3)."""
    hits = torch.cat([conditional_correct(logits, targets, group) for group in groups])
    return float(hits.double().mean()) if len(hits) else float("nan")


def by_coverage(predictions: PanelPredictions, inside: Tensor) -> list[dict[str, Any]]:
    """Results by the number of specialists whose group, (C, M) bool, contains the correct class (table 4)."""
    covered = inside.sum(1)[predictions.targets]
    before = predictions.general.argmax(1) == predictions.targets
    after = predictions.joint.argmax(1) == predictions.targets
    lines = []
    for count in covered.unique().tolist():
        rows = covered == count
        own, joint = int(before[rows].sum()), int(after[rows].sum())
        lines.append(
            {"specialists": count, "examples": int(rows.sum()), "generalist": own, "panel": joint, "delta": joint - own}
            | {"change": (joint - own) / own if own else None}
        )
    return lines


def score_panel(panel: SpecialistPanel, source: Source, students: dict[str, Network]) -> dict[str, Any]:
    """Evaluate a panel, and students distilled from it, on a source, as read by `evaluation.facts.PanelFacts`."""
    found = predict_panel(panel.placed("cpu"), source)
    groups, inside = panel.index, panel.groups.inside.cpu()
    rows = [
        _row("generalist", panel.generalist, found.general, found.targets, groups),
        _row("panel", None, found.joint, found.targets, groups) | _panel_cost(panel, source, found.active),
    ]
    for name, network in students.items():
        logits = torch.cat([_logits(network, batch) for batch in in_order(source, _BATCH, torch.device("cpu"))])
        rows.append(_row(name, network, logits, found.targets, groups))
    before, after = (logits.argmax(1) == found.targets for logits in (found.general, found.joint))
    return {
        "examples": len(found.targets),
        "fixed": int((after & ~before).sum()),
        "regressed": int((before & ~after).sum()),
        "rows": rows,
        "cover": by_coverage(found, inside),
        "groups": [
            {
                "classes": [panel.classes[i] for i in group],
                "examples": len(hits := conditional_correct(found.general, found.targets, group)),
                "generalist": int(hits.sum()),
                "panel": int(conditional_correct(found.joint, found.targets, group).sum()),
                "asked": int(found.active[:, number].sum()),
            }
            for number, group in enumerate(groups)
        ],
        "asked": float(found.active.sum(1).double().mean()),
        "steps": found.steps,
    }


@torch.inference_mode()
def _logits(network: Network, batch: Any) -> Tensor:
    return network.eval()(batch).logits.float()


def _row(
    name: str, network: Network | None, logits: Tensor, targets: Tensor, groups: list[tuple[int, ...]]
) -> dict[str, Any]:
    measured: dict[str, Any] = {"name": name, "model": network.spec if network else ""}
    measured |= scores(logits, targets) | {"conditional": conditional_accuracy(logits, targets, groups)}
    return measured | (cost(network) if network else {})


def _panel_cost(panel: SpecialistPanel, source: Source, active: Tensor) -> dict[str, float]:
    """Parameters of all networks; FLOPs and latency averaged over the source, as few specialists run per image."""
    frequency = active.double().mean(0).tolist()
    specialists = sum(share * flops(network) for share, network in zip(frequency, panel.specialists, strict=True))
    few = source.subset(torch.arange(0, len(source), max(len(source) // _TIMED, 1))[:_TIMED])
    images = cycle([batch for batch in in_order(few, 1, torch.device("cpu")) if len(batch)])
    quick = panel.placed("cpu")
    median, spread = time_ms(lambda: quick(next(images)), torch.device("cpu"))
    return {
        "parameters": sum(parameters(network) for network in panel.networks),
        "flops": flops(panel.generalist) + specialists,
        "latency_ms": median,
        "latency_spread_ms": spread,
    }
