"""`understudy specialists`: from a generalist to a folder that teaches, killed and resumed, told apart from others."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import understudy
from understudy.cli.app import main
from understudy.data import open_source
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import PanelFacts
from understudy.models import load_network
from understudy.panels.panel import SpecialistPanel
from understudy.panels.score import PanelPredictions, by_coverage, conditional_accuracy
from understudy.pipeline.panel_folder import MANIFEST, load_panel, read_manifest, specialist_run, untrained
from understudy.reporting.panel import headline, lines, render, shown_map
from understudy.reporting.significance import mcnemar
from understudy.runs import Run, RunCollection

FIELDS: dict[str, Any] = {"epochs": 2, "lr": 1e-3, "batch_size": 64, "precision": "32"}


@pytest.fixture(scope="module", autouse=True)
def quick_clock() -> Iterator[None]:
    """What nets cost is timed for moments only: no test here reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["understudy.evaluation.cost"], "_WARM_UP", 0.0)
        patch.setattr(sys.modules["understudy.evaluation.cost"], "_LIMIT", 0.01)
        yield


@pytest.fixture(scope="module")
def generalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "generalist"
    return understudy.train("digits", "mlp:16x1", run=run, epochs=4, lr=0.01, precision="32").path


@pytest.fixture(scope="module")
def made(generalist: Path) -> RunCollection:
    """Three specialists, beside the generalist; nothing disturbed them."""
    return understudy.specialists("digits", generalist, clusters=3, **FIELDS)


def weights(folder: RunCollection, number: int) -> Path:
    return specialist_run(folder.path, number).models["model-0"]


def copied(generalist: Path, to: Path) -> tuple[RunCollection, Path]:
    """The generalist's whole run folder, elsewhere: what is inside it finds it there."""
    shutil.copytree(generalist, to / "generalist")
    return RunCollection(to / "generalist" / "specialists"), to / "generalist"


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "PNG")
    return file.getvalue()


def test_the_folder_holds_a_run_for_each_group(made: RunCollection, generalist: Path) -> None:
    assert made.path == generalist / "specialists"
    manifest = read_manifest(made.path)
    assert sorted(c for group in manifest.groups for c in group) == list("0123456789")
    assert sum(manifest.confusion) <= 1
    counts = torch.bincount(open_source("digits").train.targets)  # type: ignore[arg-type]
    for number, group in enumerate(manifest.groups):
        run = specialist_run(made.path, number)
        inside = int(counts[[int(name) for name in group]].sum())
        name, _, raised = run.recipe.class_bias[0].rpartition("=")
        assert name == "dustbin"
        assert float(raised) == pytest.approx(math.log((int(counts.sum()) - inside) / inside), abs=1e-9)
        network = run.network("model-0")
        assert network.classes == (*group, "dustbin")
        assert network.class_bias is not None
        assert network.class_bias.tolist() == pytest.approx([0.0] * len(group) + [float(raised)])
        assert run.report.exists()


def test_again_keeps_what_is_finished_and_changes_only_who_is_asked(made: RunCollection, generalist: Path) -> None:
    files = [weights(made, number) for number in range(3)]
    before, times = [file.read_bytes() for file in files], [file.stat().st_mtime_ns for file in files]
    understudy.specialists("digits", generalist, clusters=3, top_n=2, **FIELDS)
    assert [file.stat().st_mtime_ns for file in files] == times
    assert read_manifest(made.path).top_n == 2
    assert made.facts.asked > 1
    understudy.specialists("digits", generalist, clusters=3, **FIELDS)
    assert [file.read_bytes() for file in files] == before
    assert made.facts.top_n == 1


def test_parallel_is_the_same_and_one_that_is_killed_is_resumed_alone(generalist: Path, tmp_path: Path) -> None:
    folder = RunCollection(tmp_path / "panel")
    slow: dict[str, Any] = {**FIELDS, "checkpoint_every": 0.0, "epochs": 4}
    other = RunCollection(tmp_path / "whole")
    understudy.specialists("digits", generalist, clusters=2, only=1, run=other.path, **slow)

    def kill() -> None:
        """SIGKILL for the second specialist, once it has a checkpoint."""
        end = time.monotonic() + 500
        while time.monotonic() < end:
            if list((specialist_run(folder.path, 1).path / "checkpoints").glob("step-*.sha256")):
                child = next(c for c in multiprocessing.active_children() if c.name == "specialist 1")
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
                return
            time.sleep(0.002)

    watcher = threading.Thread(target=kill)
    watcher.start()
    with pytest.raises(UnderstudyError, match="specialist 1 ended by signal 9; run the same command again"):
        understudy.specialists("digits", generalist, clusters=2, parallel=2, run=folder.path, **slow)
    watcher.join()
    assert untrained(folder.path) == [1], "the others went on"
    assert not folder.report.exists()
    started = specialist_run(folder.path, 1).record["created"]
    with pytest.raises(
        UnderstudyError, match=f"these are not trained: 1; continue with: understudy resume {folder.path}"
    ):
        understudy.distill("digits", folder.path, "mlp:4x1", epochs=1, run=tmp_path / "student")
    understudy.specialists("digits", generalist, clusters=2, only=1, run=folder.path, **slow)
    assert specialist_run(folder.path, 1).record["created"] == started
    assert weights(folder, 1).read_bytes() == weights(other, 1).read_bytes()
    assert folder.report.exists(), "the last one that is trained completes the panel"
    assert read_manifest(folder.path) == read_manifest(other.path)


def test_the_folder_teaches(made: RunCollection, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = understudy.distill("digits", made.path, "mlp:8x1", epochs=2, run=tmp_path / "student")
    teacher = run.facts.teacher
    assert teacher is not None
    assert teacher.mean("accuracy") == made.facts.row("panel").accuracy
    assert len(run.record["teachers"]) == 5, "the list, the generalist and three specialists are held to their hashes"
    found = understudy.evaluate(run.path, "digits", teacher=[str(made.path)]).teacher
    assert found is not None
    (tmp_path / "photo.png").write_bytes(png())
    (said,) = understudy.predict(made.path, [tmp_path / "photo.png"], top=10)
    assert sum(said.probabilities) == pytest.approx(1, abs=1e-5)
    assert (found.model, found.parameters) == (teacher.model, teacher.parameters)
    assert found.mean("nll") == teacher.mean("nll")
    alone = understudy.evaluate(made.path, "digits")
    assert alone.rows[0].mean("accuracy") == teacher.mean("accuracy")
    assert main(["evaluate", str(made.path), "digits"]) == 0
    assert f"{100 * made.facts.row('panel').accuracy:.2f}" in capsys.readouterr().out
    joined = understudy.distill("digits", [made.path, run.path], "mlp:8x1", epochs=1, run=tmp_path / "both")
    assert joined.facts.teacher is not None
    crd = understudy.distill(
        "digits", made.path, "mlp:8x1", method="crd", epochs=1, baseline=False, run=tmp_path / "crd"
    )
    assert crd.finished


def test_a_changed_specialist_is_noticed_by_a_resumed_student(
    made: RunCollection, generalist: Path, tmp_path: Path
) -> None:
    folder, _ = copied(generalist, tmp_path)
    run = understudy.distill("digits", folder.path, "mlp:4x1", epochs=1, run=tmp_path / "student")
    run.note(finished=False)
    shutil.copy(weights(folder, 0), tmp_path / "kept")
    network = load_network(weights(folder, 0))
    network.set_class_bias(torch.ones(len(network.classes)))
    network.save(weights(folder, 0))
    with pytest.raises(UnderstudyError, match=r"teacher .*specialist-0.* has changed since this run began"):
        understudy.resume(run.path)


def test_on_the_command_line(generalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "p")
    command = ["specialists", "digits", "--generalist", str(generalist), "--clusters", "2", "--run", run]
    command += ["--epochs", "1", "--lr", "1e-3", "--group-size", "6"]
    assert main([*command, "--only", "1"]) == 0
    assert f"not finished; continue with: understudy resume {run}" in capsys.readouterr().out
    assert untrained(Path(run)) == [0]
    assert main(["distill", "digits", "--teacher", run, "--student", "mlp:4x1", "--run", str(tmp_path / "s")]) == 2
    assert "these are not trained: 0" in capsys.readouterr().err
    assert main(command) == 0
    out = capsys.readouterr().out
    for words in ("confusion", "Accuracy given the group", "Δ top-1", "report:"):
        assert words in out
    main(["specialists", "--help"])
    assert "understudy distill photos/ --teacher runs/generalist/specialists" in capsys.readouterr().out
    facts = RunCollection(Path(run)).facts
    assert [len(group.classes) for group in facts.groups] == [6, 6]
    covered = {one.specialists: one.examples for one in facts.cover}
    assert sum(covered.values()) == facts.examples == 359
    assert 2 in covered, "twelve places for ten classes"


def test_soft_specialists_keep_all_classes(generalist: Path, tmp_path: Path) -> None:
    folder = understudy.specialists(
        "digits", generalist, clusters=2, soft=0.5, temperature=2.0, run=tmp_path / "soft", **FIELDS
    )
    manifest = read_manifest(folder.path)
    assert manifest.soft
    for number, group in enumerate(manifest.groups):
        recipe = specialist_run(folder.path, number).recipe
        raised = {text.partition("=")[0] for text in recipe.class_bias}
        assert raised == set(manifest.classes) - set(group)
        assert specialist_run(folder.path, number).network("model-0").classes == manifest.classes
    assert isinstance(load_panel(folder.path), SpecialistPanel)
    assert folder.facts.row("panel").accuracy > 0.5
    with pytest.raises(
        UnderstudyError, match=r"holds specialists with another (soft|temperature) .*; choose another --run folder"
    ):
        understudy.specialists("digits", generalist, clusters=2, run=folder.path, **FIELDS)


def test_a_panel_is_made_again_with_other_options(generalist: Path, tmp_path: Path) -> None:
    folder = understudy.specialists("digits", generalist, clusters=3, only=0, run=tmp_path / "p", **FIELDS)
    assert not folder.finished
    fewer: dict[str, Any] = {**FIELDS, "clusters": 2, "epochs": 1}
    understudy.specialists("digits", generalist, run=folder.path, overwrite=True, **fewer)
    assert [run.recipe.epochs for run in folder.runs.values()] == [1, 1]
    before = [row.errors for row in folder.facts.rows]
    understudy.specialists("digits", generalist, run=folder.path, overwrite=True, only=1, **fewer)
    assert not folder.report.exists(), "it was the page of what is replaced"
    understudy.resume(folder.path)
    assert [row.errors for row in folder.facts.rows] == before


def test_a_resumed_specialist_needs_nothing_but_its_folder(made: RunCollection, tmp_path: Path) -> None:
    run = Run(tmp_path / "specialist-1")
    shutil.copytree(specialist_run(made.path, 1).path, run.path)
    for part in ("models/model-0.safetensors", "run.json", "metrics.jsonl"):
        (run.path / part).unlink()
    shutil.rmtree(run.path / "checkpoints")
    understudy.resume(run.path)
    assert run.models["model-0"].read_bytes() == weights(made, 1).read_bytes()


# ---- what does not fit


def test_specialists_of_another_generalist(made: RunCollection, generalist: Path, tmp_path: Path) -> None:
    folder, home = copied(generalist, tmp_path)
    other = understudy.train("digits", "mlp:16x1", run=tmp_path / "other", epochs=1, seed=5, precision="32").path
    with pytest.raises(UnderstudyError, match="holds specialists of another generalist; choose another --run"):
        understudy.specialists("digits", other, clusters=3, run=folder.path, **FIELDS)
    strange = understudy.specialists("digits", other, clusters=3, only=0, run=tmp_path / "strange", **FIELDS)
    shutil.rmtree(specialist_run(folder.path, 0).path)
    shutil.copytree(specialist_run(strange.path, 0).path, specialist_run(folder.path, 0).path)
    with pytest.raises(UnderstudyError, match=r"specialist-0 was trained from another generalist .* --only 0"):
        load_panel(folder.path)
    shutil.copy(other / "models" / "model-0.safetensors", home / "models" / "model-0.safetensors")
    with pytest.raises(UnderstudyError, match=r"is not the generalist that .* was made for"):
        load_panel(folder.path)
    (home / "models" / "model-0.safetensors").unlink()
    with pytest.raises(UnderstudyError, match=r"is not at .*; restore it"):
        load_panel(folder.path)
    (folder.path / MANIFEST).write_text('{"groups": 3}')
    with pytest.raises(UnderstudyError, match="not what understudy specialists writes"):
        load_panel(folder.path)


def test_a_specialist_of_another_group(made: RunCollection, generalist: Path, tmp_path: Path) -> None:
    folder, _ = copied(generalist, tmp_path)
    for number in (0, 1):
        specialist_run(folder.path, number).path.rename(tmp_path / str(number))
    (tmp_path / "0").rename(specialist_run(folder.path, 1).path)
    (tmp_path / "1").rename(specialist_run(folder.path, 0).path)
    with pytest.raises(UnderstudyError, match="specialist-0 is not a specialist for"):
        load_panel(folder.path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clusters": 1}, "clusters must be at least 2"),
        ({"clusters": 3, "group_size": 10}, "group_size must be between 1 and 9"),
        ({"clusters": 3, "only": 3}, "there is no specialist 3; they are 0 to 2"),
        ({"clusters": 3, "parallel": 0}, "parallel: Input should be greater than or equal to 1"),
        ({"clusters": 3, "top_n": 0}, "top_n: Input should be greater than or equal to 1"),
        ({"clusters": 3, "seeds": 2}, "seeds cannot be set here"),
        ({"clusters": 3, "epoch": 2}, "unknown key 'epoch'; did you mean 'epochs'"),
        ({"clusters": 3, "batch_size": 5000}, "a batch size of 5000 exceeds the 1438 samples"),
    ],
)
def test_bad_input(options: dict[str, Any], says: str, generalist: Path, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=says):
        understudy.specialists("digits", generalist, run=tmp_path / "p", **{**FIELDS, **options})  # pyright: ignore
    assert not list((tmp_path / "p").glob("specialist-*"))


def test_generalists_that_will_not_do(generalist: Path, made: RunCollection, tmp_path: Path) -> None:
    two = understudy.train("digits", "mlp:4x1", run=tmp_path / "two", epochs=1, seeds=2, precision="32").path
    with pytest.raises(UnderstudyError, match=r"holds 2 networks, and specialists start from one; name it"):
        understudy.specialists("digits", two)
    with pytest.raises(UnderstudyError, match="is a panel of specialists"):
        understudy.specialists("digits", made.path)
    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    with pytest.raises(UnderstudyError, match=r"generalist .* predicts 10 classes .* the data has 4"):
        understudy.specialists((x, y), generalist, run=tmp_path / "p", clusters=2, batch_size=8)
    bare = replace(open_source("digits").train, classes=(), targets=None)
    with pytest.raises(UnderstudyError, match="has no labels"):
        understudy.specialists(bare, generalist, run=tmp_path / "p")
    assert main(["specialists", "digits"]) == 2
    with pytest.raises(UnderstudyError, match="is a panel of specialists; distill it, and export the student"):
        understudy.export(made.path)
    network = load_network(generalist / "models" / "model-0.safetensors")
    next(network.parameters()).data.fill_(float("nan"))
    network.save(tmp_path / "lost.safetensors")
    with pytest.raises(UnderstudyError, match="weights that are not finite"):
        understudy.specialists("digits", tmp_path / "lost.safetensors", clusters=3)


# ---- the page


def test_table_4_counts_by_cover() -> None:
    targets = torch.tensor([0, 0, 1, 2, 3])
    right = torch.eye(4)[targets]
    general, joint = right.clone(), right.clone()
    general[0] = joint[2] = torch.tensor([0.0, 0, 0, 9])
    general[4] = torch.tensor([9.0, 0, 0, 0])
    inside = torch.tensor([[True, True], [True, False], [False, False], [True, False]])
    found = by_coverage(PanelPredictions(targets, general, joint, inside, 1), inside)
    assert [(one["specialists"], one["examples"], one["delta"], one["change"]) for one in found] == [
        (0, 1, 0, 0.0),
        (1, 2, 0, 0.0),
        (2, 2, 1, 1.0),
    ]


def test_conditional_accuracy_restricts_samples_and_answers() -> None:
    logits = torch.tensor([[1.0, 2, 9], [3, 1, 9], [1, 2, 9], [0, 5, 1]])
    targets = torch.tensor([0, 0, 1, 2])
    assert conditional_accuracy(logits, targets, [(0, 1)]) == pytest.approx(2 / 3)
    assert conditional_accuracy(logits, targets, [(0, 1), (1, 2)]) == pytest.approx((1 + 1 + 0 + 0) / 5)


def test_how_sure_the_headline_is(made: RunCollection) -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(6, 0) == mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(5, 1) == pytest.approx(2 * 7 / 64)
    facts = json.loads((made.path / "evaluation.json").read_text())
    counts = {row["name"]: row["errors"] for row in facts["rows"]}
    assert counts["generalist"] - counts["panel"] == facts["fixed"] - facts["regressed"]
    for fixed, regressed, tone in ((40, 10, "good"), (10, 40, "bad"), (11, 10, "open")):
        found = headline(PanelFacts.from_json(facts | {"fixed": fixed, "regressed": regressed}))
        assert found.tone == tone
        assert f"fixes {fixed} and regresses {regressed}" in found.evidence


def test_the_map_has_no_diagonal_and_shrinks() -> None:
    matrix = [[4.0, 1.0, -0.5], [1.0, 1.0, 0.0], [-0.5, 0.0, 0.25]]
    shown, blocks = shown_map(matrix)
    assert not blocks
    assert [shown[i][i] for i in range(3)] == [0, 0, 0]
    assert shown[0] == [0, 1, -1]
    large, blocks = shown_map(torch.eye(450).tolist())
    assert blocks
    assert len(large) == len(large[0]) == 200


def test_the_page_says_what_the_facts_say_and_escapes_names(made: RunCollection) -> None:
    facts = json.loads((made.path / "evaluation.json").read_text())
    facts["groups"][0]["classes"] = ["<script>alert(1)</script>"]
    facts["classes"][0] = "<b>bold</b>"
    page = render(PanelFacts.from_json(facts), made.path)
    assert "<script>alert" not in page
    assert "<b>bold" not in page
    assert "&lt;script&gt;" in page
    checked = PanelFacts.from_json(facts)
    for one in checked.cover:
        assert f"<td>{one.examples:,}</td>" in page
    assert f"{100 * checked.row('panel').accuracy:.2f}" in page
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page.replace("http://www.w3.org", "")
    assert {line.label for line in lines(checked)} >= {"Accuracy", "FLOPs per image", "Latency", "Parameters"}
    general, panel = checked.row("generalist"), checked.row("panel")
    assert general.flops is not None
    assert panel.flops is not None
    assert general.flops < panel.flops <= general.flops * 2.01, "one specialist at most is asked of these groups"
    assert general.flops == 2 * (64 * 16 + 16 * 10)
    with pytest.raises(UnderstudyError, match="cannot be reported: asked"):
        PanelFacts.from_json(facts | {"asked": "many"})


def test_students_stand_beside_the_panel(made: RunCollection, generalist: Path, tmp_path: Path) -> None:
    student = understudy.distill("digits", made.path, "mlp:8x1", epochs=1, seeds=2, baseline=False, run=tmp_path / "s")
    understudy.specialists("digits", generalist, clusters=3, student=[str(student.path)], **FIELDS)
    facts = made.facts
    assert [row.name for row in facts.rows] == ["generalist", "panel", "distilled-0", "distilled-1"]
    scored = {seed.accuracy for seed in student.facts.of("distilled")[0].seeds}
    assert {row.accuracy for row in facts.rows[2:]} == scored
