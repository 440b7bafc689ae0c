"""`understudy reproduce hinton-specialists`, run through on digits with nets of a few units."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import understudy.evaluation.cost  # noqa: F401  (it is patched)
from understudy.config.options import OptimizerConfig
from understudy.errors import UnderstudyError
from understudy.papers import EXPERIMENTS, hinton_specialists
from understudy.papers.experiment import Bench
from understudy.papers.hinton_specialists import PLANS, Plan, plan_of, planted_groups

TINY = Plan(nets=("mlp:12x1",), epochs=8, quick_epochs=2, clusters=3, optimizer=OptimizerConfig(lr=1e-2))


def test_it_runs_through_and_again_only_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hinton_specialists, "PLANS", {"digits": TINY})
    monkeypatch.setattr(hinton_specialists, "SEEDS", 1)
    monkeypatch.setattr(sys.modules["understudy.evaluation.cost"], "_LIMIT", 0.01)  # what nets cost is not read here
    known = tmp_path / "groups.yaml"
    known.write_text("round: ['0', '6', '8', '9']\nstraight: ['1', '4', '7']\nother: ['2', '3', '5']\n")
    bench = Bench(tmp_path / "runs", quick=True, data="digits", groups=str(known))
    EXPERIMENTS["hinton-specialists"].run(bench)
    found = json.loads((tmp_path / "runs" / "results-quick.json").read_text())
    ours, paper = found["lines"]
    assert ours["generalist"] == "mlp:12x1"
    assert 0 < ours["accuracy"]["mean"] <= 100
    assert -0.5 <= ours["groups, adjusted Rand index"]["mean"] <= 1
    assert paper["with specialists, given the group"] == "45.9%"
    assert found["command"].endswith(f"hinton-specialists --quick --data digits --groups {known}")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    assert len(files) > 10
    EXPERIMENTS["hinton-specialists"].run(bench)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert json.loads((tmp_path / "runs" / "results-quick.json").read_text())["lines"] == found["lines"]


def test_plans() -> None:
    assert plan_of("mnist") is PLANS["mnist"]
    assert all(len(plan.nets) == 2 for plan in (plan_of("mnist"), plan_of("photos/")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: ['0', x]\nb: ['1']", "has the class 'x', which is not in digits"),
        ("a: ['0', '1']", "must list each of the 10 classes of digits exactly once"),
        ("a: 3", "must hold a list of classes for each group"),
    ],
)
def test_planted_groups_that_do_not_fit(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(UnderstudyError, match=says):
        planted_groups(Bench(tmp_path, data="digits", groups=str(tmp_path / "g.yaml")), "digits")
