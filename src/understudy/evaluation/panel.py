"""Where a panel of specialists is better than its generalist, and what it costs (Hinton et al. 2015, tables 3, 4)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from understudy.data.batches import in_order
from understudy.data.source import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.cost import cost, flops, parameters, timed
from understudy.evaluation.metrics import scores
from understudy.models import Network

if TYPE_CHECKING:
    from understudy.teachers import SpecialistPanel

_TIMED = 64  # images of the source, over which the panel's time for one is taken


@dataclass(frozen=True)
class PanelAnswers:
    """What was said of every sample of a source, on the CPU.

    Attributes:
        targets: (N,) int64.
        general: (N, C) the generalist's logits.
        joint: (N, C) the panel's log-probabilities.
        active: (N, M) bool, which specialists were asked.
        steps: most that joining a sample's answers took.
    """

    targets: Tensor
    general: Tensor
    joint: Tensor
    active: Tensor
    steps: int


def answers_of(panel: SpecialistPanel, source: Source, *, batch_size: int = 500, workers: int = 0) -> PanelAnswers:
    """Ask a panel, on the CPU, about a labelled source, unvaried and in order.

    Raises:
        UnderstudyError: no labels, or not one sample could be read.
    """
    if source.targets is None:
        raise UnderstudyError(f"{source.name} has no labels to score the specialists on")
    columns: list[tuple[Tensor, ...]] = []
    steps = 0
    for batch in in_order(source, batch_size, torch.device("cpu"), workers):
        if not len(batch):
            continue
        assert batch.targets is not None
        said = panel.consult(batch)
        columns.append((batch.targets, said.general.logits.float(), said.fused.log_probs.float(), said.active))
        steps = max(steps, said.fused.steps)
    if not columns:
        raise UnderstudyError(f"no sample of {source.name} could be read; check its files")
    targets, general, joint, active = (torch.cat(column) for column in zip(*columns, strict=True))
    return PanelAnswers(targets, general, joint, active, steps)


def conditional_hits(logits: Tensor, targets: Tensor, group: tuple[int, ...]) -> Tensor:
    """(n,) bool, for the samples of a group's classes alone, whether the best of these classes is the right one."""
    members = torch.tensor(group)
    rows = torch.isin(targets, members)
    return members[logits[rows][:, members].argmax(1)] == targets[rows]


def conditional_accuracy(logits: Tensor, targets: Tensor, groups: list[tuple[int, ...]]) -> float:
    """Accuracy given the group: over each group's samples, with the prediction restricted to its classes (table 3)."""
    hits = torch.cat([conditional_hits(logits, targets, group) for group in groups])
    return float(hits.double().mean()) if len(hits) else float("nan")


def by_cover(answers: PanelAnswers, inside: Tensor) -> list[dict[str, Any]]:
    """A line for each number of specialists that cover the right class (table 4).

    Args:
        inside: (C, M) bool, which classes each specialist tells apart.
    """
    covered = inside.sum(1)[answers.targets]
    before = answers.general.argmax(1) == answers.targets
    after = answers.joint.argmax(1) == answers.targets
    lines = []
    for count in covered.unique().tolist():
        rows = covered == count
        own, joint = int(before[rows].sum()), int(after[rows].sum())
        lines.append(
            {"specialists": count, "examples": int(rows.sum()), "generalist": own, "panel": joint, "delta": joint - own}
            | {"change": (joint - own) / own if own else None}
        )
    return lines


def score_panel(
    panel: SpecialistPanel, source: Source, students: dict[str, Network], *, workers: int = 0
) -> dict[str, Any]:
    """What is said of a panel on a source, as `reporting.specialists.PanelFacts` reads it.

    Args:
        students: networks distilled from it, by name.
    """
    said = answers_of(panel.placed("cpu"), source, workers=workers)
    groups, inside = panel.index, panel.groups.inside.cpu()
    rows = [
        _row("generalist", panel.generalist, said.general, said.targets, groups),
        _row("panel", None, said.joint, said.targets, groups) | _panel_cost(panel, source, said.active),
    ]
    for name, network in students.items():
        logits = torch.cat([_logits(network, batch) for batch in in_order(source, 500, torch.device("cpu"), workers)])
        rows.append(_row(name, network, logits, said.targets, groups))
    before, after = (logits.argmax(1) == said.targets for logits in (said.general, said.joint))
    return {
        "examples": len(said.targets),
        "mended": int((after & ~before).sum()),
        "spoilt": int((before & ~after).sum()),
        "rows": rows,
        "cover": by_cover(said, inside),
        "groups": [
            {
                "classes": [panel.classes[i] for i in group],
                "examples": len(hits := conditional_hits(said.general, said.targets, group)),
                "generalist": int(hits.sum()),
                "panel": int(conditional_hits(said.joint, said.targets, group).sum()),
                "asked": int(said.active[:, number].sum()),
            }
            for number, group in enumerate(groups)
        ],
        "asked": float(said.active.sum(1).double().mean()),
        "steps": said.steps,
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
    """Parameters of all; operations and time as they fall on the source's images, each of which asks few."""
    asked = active.double().mean(0).tolist()
    each = [flops(one) for one in panel.specialists]
    few = source.subset(torch.arange(0, len(source), max(len(source) // _TIMED, 1))[:_TIMED])
    images = cycle([batch for batch in in_order(few, 1, torch.device("cpu")) if len(batch)])

    quick = panel.placed("cpu")

    def once() -> object:
        return quick(next(images))

    median, spread = timed(once, torch.device("cpu"))
    return {
        "parameters": sum(parameters(one) for one in panel.networks),
        "flops": flops(panel.generalist) + sum(share * one for share, one in zip(asked, each, strict=True)),
        "latency_ms": median,
        "latency_spread_ms": spread,
    }
