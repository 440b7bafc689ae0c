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

import pytest
import torch
from PIL import Image

import understudy
from understudy import api, exporting
from understudy.cli import main
from understudy.data import open_source
from understudy.errors import UnderstudyError
from understudy.evaluation.panel import PanelAnswers, by_cover, conditional_accuracy
from understudy.models import load_network
from understudy.panel_report import facts_of
from understudy.panels import PanelFolder
from understudy.reporting.specialists import PanelFacts, by_chance, headline, lines, render_panel, shown_map
from understudy.runs import Run
from understudy.teachers import SpecialistPanel

FIELDS = {"epochs": 2, "lr": 1e-3, "batch_size": 64, "precision": "32"}


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
    return api.train("digits", "mlp:16x1", run=run, epochs=4, lr=0.01, precision="32").path


@pytest.fixture(scope="module")
def made(generalist: Path) -> PanelFolder:
    """Three specialists, beside the generalist; nothing disturbed them."""
    return understudy.specialists("digits", generalist, clusters=3, **FIELDS)


def weights(folder: PanelFolder) -> list[bytes]:
    return [folder.weights(number).read_bytes() for number in range(len(folder.manifest.groups))]


def copied(made: PanelFolder, generalist: Path, to: Path) -> tuple[PanelFolder, Path]:
    """The generalist's whole run folder, elsewhere: what is inside it finds it there."""
    shutil.copytree(generalist, to / "generalist")
    return PanelFolder(to / "generalist" / "specialists"), to / "generalist"


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "PNG")
    return file.getvalue()


def test_the_folder_holds_a_run_for_each_group(made: PanelFolder, generalist: Path) -> None:
    assert made.path == generalist / "specialists"
    manifest = made.manifest
    assert sorted(c for group in manifest.groups for c in group) == list("0123456789")
    assert sum(manifest.held) <= 1
    counts = torch.bincount(open_source("digits").train.targets)  # type: ignore[arg-type]
    for number, group in enumerate(manifest.groups):
        run = made.run(number)
        inside = int(counts[[int(name) for name in group]].sum())
        name, _, raised = run.recipe.class_bias[0].rpartition("=")
        assert name == "dustbin"
        assert float(raised) == pytest.approx(math.log((int(counts.sum()) - inside) / inside), abs=1e-9)
        network = run.network("model-0")
        assert network.classes == (*group, "dustbin")
        assert network.class_bias is not None
        assert network.class_bias.tolist() == pytest.approx([0.0] * len(group) + [float(raised)])
        assert run.report.exists()


def test_again_keeps_what_is_finished_and_changes_only_who_is_asked(made: PanelFolder, generalist: Path) -> None:
    before, times = weights(made), [made.weights(k).stat().st_mtime_ns for k in range(3)]
    understudy.specialists("digits", generalist, clusters=3, top_n=2, **FIELDS)
    assert [made.weights(k).stat().st_mtime_ns for k in range(3)] == times
    assert made.manifest.top_n == 2
    assert facts_of(made).asked > 1
    understudy.specialists("digits", generalist, clusters=3, **FIELDS)
    assert weights(made) == before
    assert facts_of(made).top_n == 1


def test_parallel_is_the_same_and_one_that_is_killed_is_resumed_alone(generalist: Path, tmp_path: Path) -> None:
    folder = PanelFolder(tmp_path / "panel")
    slow = {**FIELDS, "checkpoint_every": 0.0, "epochs": 4}
    other = PanelFolder(tmp_path / "whole")
    understudy.specialists("digits", generalist, clusters=2, only=1, run=other.path, **slow)

    def kill() -> None:
        """SIGKILL for the second specialist, once it has a checkpoint."""
        end = time.monotonic() + 500
        while time.monotonic() < end:
            if list((folder.run(1).path / "checkpoints").glob("step-*.sha256")):
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
    assert folder.missing() == [1], "the others went on"
    assert not folder.report.exists()
    started = folder.run(1).record["created"]
    with pytest.raises(UnderstudyError, match=r"these are not trained: 1; .* --only 1"):
        api.distill("digits", folder.path, "mlp:4x1", epochs=1, run=tmp_path / "student")
    understudy.specialists("digits", generalist, clusters=2, only=1, run=folder.path, **slow)
    assert folder.run(1).record["created"] == started
    assert folder.weights(1).read_bytes() == other.weights(1).read_bytes()
    assert folder.report.exists(), "the last one that is trained completes the panel"
    assert folder.manifest == other.manifest


def test_the_folder_teaches(made: PanelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = api.distill("digits", made.path, "mlp:8x1", epochs=2, run=tmp_path / "student")
    teacher = run.facts.teacher
    assert teacher is not None
    assert teacher.mean("accuracy") == facts_of(made).row("panel").accuracy
    assert len(run.record["teachers"]) == 5, "the list, the generalist and three specialists are held to their hashes"
    found = api.evaluate(run.path, "digits", teacher=[str(made.path)]).teacher
    assert found is not None
    (tmp_path / "photo.png").write_bytes(png())
    (said,) = api.predict(made.path, [tmp_path / "photo.png"], top=10)
    assert sum(said.probabilities) == pytest.approx(1, abs=1e-5)
    assert (found.model, found.parameters) == (teacher.model, teacher.parameters)
    assert found.mean("nll") == teacher.mean("nll")
    alone = api.evaluate(made.path, "digits")
    assert alone.rows[0].mean("accuracy") == teacher.mean("accuracy")
    assert main(["evaluate", str(made.path), "digits"]) == 0
    assert f"{100 * facts_of(made).row('panel').accuracy:.2f}" in capsys.readouterr().out
    joined = api.distill("digits", [made.path, run.path], "mlp:8x1", epochs=1, run=tmp_path / "both")
    assert joined.facts.teacher is not None
    crd = api.distill("digits", made.path, "mlp:8x1", method="crd", epochs=1, baseline=False, run=tmp_path / "crd")
    assert crd.finished


def test_a_changed_specialist_is_noticed_by_a_resumed_student(
    made: PanelFolder, generalist: Path, tmp_path: Path
) -> None:
    folder, _ = copied(made, generalist, tmp_path)
    run = api.distill("digits", folder.path, "mlp:4x1", epochs=1, run=tmp_path / "student")
    run.note(finished=False)
    shutil.copy(folder.weights(0).with_name("model-0.safetensors"), tmp_path / "kept")
    network = load_network(folder.weights(0))
    network.set_class_bias(torch.ones(len(network.classes)))
    network.save(folder.weights(0))
    with pytest.raises(UnderstudyError, match="is not the one this run began with"):
        api.resume(run.path)


def test_on_the_command_line(generalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "p")
    command = ["specialists", "digits", "--generalist", str(generalist), "--clusters", "2", "--run", run]
    command += ["--epochs", "1", "--lr", "1e-3", "--group-size", "6"]
    assert main([*command, "--only", "1"]) == 0
    assert "not trained yet: 0" in capsys.readouterr().out
    assert main(["distill", "digits", "--teacher", run, "--student", "mlp:4x1", "--run", str(tmp_path / "s")]) == 2
    assert "these are not trained: 0" in capsys.readouterr().err
    assert main(command) == 0
    out = capsys.readouterr().out
    for words in (
        "confusion",
        "Accuracy given the group",
        "delta in",
        "report:",
        "understudy distill digits --teacher",
    ):
        assert words in out
    facts = facts_of(PanelFolder(Path(run)))
    assert [len(group.classes) for group in facts.groups] == [6, 6]
    covered = {one.specialists: one.examples for one in facts.cover}
    assert sum(covered.values()) == facts.examples == 359
    assert 2 in covered, "twelve places for ten classes"


def test_soft_specialists_keep_all_classes(generalist: Path, tmp_path: Path) -> None:
    folder = understudy.specialists(
        "digits", generalist, clusters=2, soft=0.5, temperature=2.0, run=tmp_path / "soft", **FIELDS
    )
    manifest = folder.manifest
    assert manifest.soft
    for number, group in enumerate(manifest.groups):
        recipe = folder.run(number).recipe
        raised = {text.partition("=")[0] for text in recipe.class_bias}
        assert raised == set(manifest.classes) - set(group)
        assert folder.run(number).network("model-0").classes == manifest.classes
    assert isinstance(folder.load(), SpecialistPanel)
    assert facts_of(folder).row("panel").accuracy > 0.5
    with pytest.raises(UnderstudyError, match="made otherwise"):
        understudy.specialists("digits", generalist, clusters=2, run=folder.path, **FIELDS)


def test_a_resumed_specialist_needs_nothing_but_its_folder(made: PanelFolder, tmp_path: Path) -> None:
    run = Run(tmp_path / "specialist-1")
    shutil.copytree(made.run(1).path, run.path)
    for part in ("models/model-0.safetensors", "run.json", "metrics.jsonl"):
        (run.path / part).unlink()
    shutil.rmtree(run.path / "checkpoints")
    api.resume(run.path)
    assert run.models["model-0"].read_bytes() == made.weights(1).read_bytes()


# ---- what does not fit


def test_specialists_of_another_generalist(made: PanelFolder, generalist: Path, tmp_path: Path) -> None:
    folder, home = copied(made, generalist, tmp_path)
    other = api.train("digits", "mlp:16x1", run=tmp_path / "other", epochs=1, seed=5, precision="32").path
    with pytest.raises(UnderstudyError, match="holds specialists of another generalist; choose another --run"):
        understudy.specialists("digits", other, clusters=3, run=folder.path, **FIELDS)
    strange = understudy.specialists("digits", other, clusters=3, only=0, run=tmp_path / "strange", **FIELDS)
    shutil.rmtree(folder.run(0).path)
    shutil.copytree(strange.run(0).path, folder.run(0).path)
    with pytest.raises(UnderstudyError, match=r"specialist-0 was trained from another generalist .* --only 0"):
        folder.load()
    shutil.copy(other / "models" / "model-0.safetensors", home / "models" / "model-0.safetensors")
    with pytest.raises(UnderstudyError, match=r"is not the generalist that .* was made for"):
        folder.load()
    (home / "models" / "model-0.safetensors").unlink()
    with pytest.raises(UnderstudyError, match="put it back there"):
        folder.load()
    folder.manifest_file.write_text('{"groups": 3}')
    with pytest.raises(UnderstudyError, match="not what understudy specialists writes"):
        folder.load()


def test_a_specialist_of_another_group(made: PanelFolder, generalist: Path, tmp_path: Path) -> None:
    folder, _ = copied(made, generalist, tmp_path)
    for number in (0, 1):
        folder.run(number).path.rename(tmp_path / str(number))
    (tmp_path / "0").rename(folder.run(1).path)
    (tmp_path / "1").rename(folder.run(0).path)
    with pytest.raises(UnderstudyError, match="specialist-0 is not a specialist for"):
        folder.load()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clusters": 1}, "1 cluster would hold every class"),
        ({"clusters": 3, "group_size": 10}, "groups of 10 do not fit 10 classes"),
        ({"clusters": 3, "only": 3}, "there is no specialist 3; they are 0 to 2"),
        ({"clusters": 3, "parallel": 0}, "parallel must be at least 1"),
        ({"clusters": 3, "top_n": 0}, "top_n must be at least 1"),
        ({"clusters": 3, "seeds": 2}, "specialists takes no seeds"),
        ({"clusters": 3, "epoch": 2}, "unknown key 'epoch'; did you mean 'epochs'"),
        ({"clusters": 3, "batch_size": 5000}, "a batch of 5000 is larger"),
    ],
)
def test_bad_input(options: dict[str, int], says: str, generalist: Path, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=says):
        understudy.specialists("digits", generalist, run=tmp_path / "p", **{**FIELDS, **options})
    assert not list((tmp_path / "p").glob("specialist-*"))


def test_generalists_that_will_not_do(generalist: Path, made: PanelFolder, tmp_path: Path) -> None:
    two = api.train("digits", "mlp:4x1", run=tmp_path / "two", epochs=1, seeds=2, precision="32").path
    with pytest.raises(UnderstudyError, match=r"holds 2 networks, and specialists begin from one; name it"):
        understudy.specialists("digits", two)
    with pytest.raises(UnderstudyError, match="is a panel of specialists"):
        understudy.specialists("digits", made.path)
    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    with pytest.raises(UnderstudyError, match=r"generalist .* knows 10 classes .* the data has 4"):
        understudy.specialists((x, y), generalist, run=tmp_path / "p", clusters=2, batch_size=8)
    bare = replace(open_source("digits").train, classes=(), targets=None)
    with pytest.raises(UnderstudyError, match="has no labels"):
        understudy.specialists(bare, generalist, run=tmp_path / "p")
    assert main(["specialists", "digits"]) == 2
    with pytest.raises(UnderstudyError, match="is a panel, which asks other nets"):
        exporting._weights(made.path, None)
    network = load_network(generalist / "models" / "model-0.safetensors")
    next(network.parameters()).data.fill_(float("nan"))
    network.save(tmp_path / "lost.safetensors")
    with pytest.raises(UnderstudyError, match=r"covariance .* is not finite"):
        understudy.specialists("digits", tmp_path / "lost.safetensors", clusters=3)


# ---- the page


def test_table_4_counts_by_cover() -> None:
    targets = torch.tensor([0, 0, 1, 2, 3])
    right = torch.eye(4)[targets]
    general, joint = right.clone(), right.clone()
    general[0] = joint[2] = torch.tensor([0.0, 0, 0, 9])
    general[4] = torch.tensor([9.0, 0, 0, 0])
    inside = torch.tensor([[True, True], [True, False], [False, False], [True, False]])
    found = by_cover(PanelAnswers(targets, general, joint, inside, 1), inside)
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


def test_how_sure_the_headline_is(made: PanelFolder) -> None:
    assert by_chance(0, 0) == 1
    assert by_chance(6, 0) == by_chance(0, 6) == pytest.approx(2 / 64)
    assert by_chance(5, 1) == pytest.approx(2 * 7 / 64)
    facts = json.loads((made.path / "evaluation.json").read_text())
    counts = {row["name"]: row["errors"] for row in facts["rows"]}
    assert counts["generalist"] - counts["panel"] == facts["mended"] - facts["spoilt"]
    for mended, spoilt, tone in ((40, 10, "good"), (10, 40, "bad"), (11, 10, "open")):
        found = headline(PanelFacts.from_json(facts | {"mended": mended, "spoilt": spoilt}))
        assert found.tone == tone
        assert f"mends {mended} and spoils {spoilt}" in found.evidence


def test_the_map_has_no_diagonal_and_shrinks() -> None:
    matrix = [[4.0, 1.0, -0.5], [1.0, 1.0, 0.0], [-0.5, 0.0, 0.25]]
    shown, blocks = shown_map(matrix)
    assert not blocks
    assert [shown[i][i] for i in range(3)] == [0, 0, 0]
    assert shown[0] == [0, 1, -1]
    large, blocks = shown_map(torch.eye(450).tolist())
    assert blocks
    assert len(large) == len(large[0]) == 200


def test_the_page_says_what_the_facts_say_and_escapes_names(made: PanelFolder) -> None:
    facts = json.loads((made.path / "evaluation.json").read_text())
    facts["groups"][0]["classes"] = ["<script>alert(1)</script>"]
    facts["classes"][0] = "<b>bold</b>"
    page = render_panel(PanelFacts.from_json(facts))
    assert "<script>alert" not in page
    assert "<b>bold" not in page
    assert "&lt;script&gt;" in page
    checked = PanelFacts.from_json(facts)
    for one in checked.cover:
        assert f"<td>{one.examples:,}</td>" in page
    assert f"{100 * checked.row('panel').accuracy:.2f}" in page
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page.replace("http://www.w3.org", "")
    assert {line.label for line in lines(checked)} >= {"Accuracy", "FLOPs an image", "Latency", "Parameters"}
    general, panel = checked.row("generalist"), checked.row("panel")
    assert general.flops is not None
    assert panel.flops is not None
    assert general.flops < panel.flops <= general.flops * 2.01, "one specialist at most is asked of these groups"
    assert general.flops == 2 * (64 * 16 + 16 * 10)
    with pytest.raises(UnderstudyError, match="cannot be reported: asked"):
        PanelFacts.from_json(facts | {"asked": "many"})


def test_students_stand_beside_the_panel(made: PanelFolder, generalist: Path, tmp_path: Path) -> None:
    student = api.distill("digits", made.path, "mlp:8x1", epochs=1, seeds=2, baseline=False, run=tmp_path / "s")
    understudy.specialists("digits", generalist, clusters=3, student=[student.path], **FIELDS)
    facts = facts_of(made)
    assert [row.name for row in facts.rows] == ["generalist", "panel", "distilled-0", "distilled-1"]
    scored = {seed.accuracy for seed in student.facts.of("distilled")[0].seeds}
    assert {row.accuracy for row in facts.rows[2:]} == scored
