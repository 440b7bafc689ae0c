"""Pages that had only tables: few shots and suites have a picture, and an evaluation has a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import understudy
from understudy.cli.app import main
from understudy.evaluation.facts import (
    FewShotFacts,
    Probe,
    ProbedSet,
    ProbeFacts,
    ShotResult,
    SuiteFacts,
    TaskResult,
)
from understudy.reporting import render


def shots(number: int, *accuracies: float) -> ShotResult:
    return ShotResult(shots=number, examples=10 * number, accuracies=accuracies)


def test_few_shots_have_a_picture_where_there_are_several_numbers(tmp_path: Path) -> None:
    def page(*results: ShotResult) -> str:
        return render(FewShotFacts(name="s", data="d", backbone="b", results=list(results)), tmp_path)

    both = page(shots(1, 0.5, 0.6), shots(5, 0.8, 0.9))
    assert both.count("<figure>") == 1
    assert "examples per class</text>" in both
    assert "<figure>" not in page(shots(5, 0.8, 0.9))
    assert "<figure>" not in page(shots(1), shots(5))


def test_a_suite_has_a_dot_for_each_task_that_was_scored(tmp_path: Path) -> None:
    tasks = [
        TaskResult(name="<one>", results=[shots(0, 0.5)]),
        TaskResult(name="two", reason="no data"),
        TaskResult(name="three", results=[shots(0, 0.7, 0.8)]),
    ]
    page = render(SuiteFacts(name="s", backbone="b", tasks=tasks), tmp_path)
    assert page.count("<figure>") == 1
    assert "1 &lt;one&gt;, 2 three." in page
    assert "<figure>" not in render(SuiteFacts(name="s", backbone="b", tasks=tasks[:2]), tmp_path)


def test_evaluate_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = understudy.train("digits", "mlp:8x1", run=tmp_path / "run", epochs=1, precision="32", threads=1)
    out = tmp_path / "page"
    assert main(["evaluate", str(run.path), "digits", "--out", str(out)]) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    held = json.loads((out / "evaluation.json").read_text())
    assert held["rows"][0]["seeds"][0]["accuracy"] == run.facts.rows[0].mean("accuracy")
    assert "an accuracy of" in (out / "report.html").read_text()
    assert main(["evaluate", str(run.path), "digits", "--out", str(run.path)]) == 2
    assert "whose page stays" in capsys.readouterr().err


def test_probe_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = understudy.train("digits", "mlp:8x1", run=tmp_path / "teacher", epochs=1, precision="32", threads=1)
    run = understudy.distill("digits", teacher.path, "mlp:4x1", run=tmp_path / "run", epochs=1, seeds=2, threads=1)
    out = tmp_path / "page"
    words = ["probe", str(run.path), "digits", "--teacher", str(teacher.path), "--knn", "--out", str(out)]
    assert main(words) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    held, page = json.loads((out / "evaluation.json").read_text()), (out / "report.html").read_text()
    (one,) = understudy.probe(run.path, "digits", teacher=[teacher.path])
    assert held["results"][0]["probes"] == json.loads(one.model_dump_json())["probes"]
    for group in ("teacher", "alone", "distilled"):
        assert f"{100 * one.mean(group):.2f}" in page
    assert "1 Teacher, 2 Student alone, 3 Distilled." in page
    assert page.count("<figure>") == 1
    assert main([*words[:-1], str(run.path)]) == 2
    assert "whose page stays" in capsys.readouterr().err


def test_networks_with_names_of_their_own_are_on_the_page(tmp_path: Path) -> None:
    probe = Probe(accuracy=0.5, errors=5, validation_accuracy=0.5, weight_decay=0.1, width=8)
    found = ProbedSet(data="<d>", classes=2, train=9, test=10, probes={"<mine>-0": probe, "teacher-0": probe})
    page = render(ProbeFacts(name="n", results=[found]), tmp_path)
    assert "1 Teacher, 2 &lt;mine&gt;." in page
    assert "<mine>" not in page
