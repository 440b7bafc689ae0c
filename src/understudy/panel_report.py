"""A panel of specialists evaluated, and on its page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file

from understudy.errors import UnderstudyError
from understudy.evaluation.grouping import order_by_group
from understudy.evaluation.panel import score_panel
from understudy.files import write_whole
from understudy.material import Material
from understudy.models import Network, load_network
from understudy.panels import PanelFolder
from understudy.performing import hardware
from understudy.preparing import weights_of
from understudy.reporting.specialists import PanelFacts, render_panel
from understudy.teachers import check_classes


def report_on(
    folder: PanelFolder, material: Material, students: Sequence[str | Path] = (), command: Sequence[str] = ()
) -> PanelFacts | None:
    """Score a whole panel on the data's test part, and write its `evaluation.json` and `report.html`.

    Args:
        students: run folders or weights files of networks to show beside it.

    Returns:
        What was found; None where the data has no test part with labels.
    """
    test = material.test
    if test is None or test.targets is None:
        return None
    manifest, panel = folder.manifest, folder.load()
    check_classes(panel, str(folder.path), test.classes)
    found = score_panel(panel, test, _students(students, test.classes))
    matrix = load_file(folder.path / "covariance.safetensors")["covariance"]
    order = torch.tensor(order_by_group(manifest.index, len(manifest.classes)))
    for group, held in zip(found["groups"], manifest.held, strict=True):
        group["held"] = held
    facts = found | {
        "name": f"{folder.path.resolve().parent.name}/{folder.path.name}",
        "data": test.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": list(command),
        "top_n": manifest.top_n,
        "classes": [manifest.classes[i] for i in order.tolist()],
        "covariance": matrix[order][:, order].tolist(),
    }
    checked = PanelFacts.from_json(facts)
    write_whole(folder.path / "evaluation.json", json.dumps(facts) + "\n")
    write_whole(folder.report, render_panel(checked))
    return checked


def facts_of(folder: PanelFolder) -> PanelFacts:
    """What the evaluation found."""
    path = folder.path / "evaluation.json"
    if not path.exists():
        raise UnderstudyError(
            f"{folder.path} has no evaluation yet; run understudy specialists with the same flags again"
        )
    return PanelFacts.from_json(json.loads(path.read_text()))


def _students(names: Sequence[str | Path], classes: tuple[str, ...]) -> dict[str, Network]:
    networks = {}
    for name in names:
        files = weights_of(str(name))
        for file in files:
            network = load_network(file)
            check_classes(network, f"student {file}", classes)
            networks[file.stem if len(names) == 1 else f"{Path(name).name} {file.stem}"] = network
    return networks
