"""`suite`: one backbone on many tasks; VTAB's groups and its thousand examples."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import understudy
from understudy.cli.app import main
from understudy.data import Source, Splits, group_of, open_source, read_subset, stratified_sample, vtab_subsets
from understudy.data.formats.arrays import array_source
from understudy.errors import Interrupted, UnderstudyError
from understudy.evaluation.facts import ShotResult, SuiteFacts, TaskResult
from understudy.reporting.suite import lines, render
from understudy.runs import Run, RunCollection
from understudy.training import Loop

QUICK: dict[str, Any] = {
    "rule": "bit", "crop_size": 8, "steps": 6, "batch_size": 32, "from_scratch": True, "workers": 0,
}  # fmt: skip
FLAGS = ["--rule", "bit", "--crop-size", "8", "--steps", "6", "--batch-size", "32", "--from-scratch", "--workers", "0"]


def painted(folder: Path, classes: tuple[str, ...], train: int = 8) -> Path:
    """Gray images whose class is how bright they are."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", 4)):
        for c, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(80 * c, 80 * c + 60, (10, 10), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A task of VTAB's by its folder's name, one of the user's own and a named one."""
    home = tmp_path_factory.mktemp("tasks")
    folders = [painted(home / "resisc45", ("dark", "light")), painted(home / "shades", ("a", "b", "c"))]
    return [*map(str, folders), "digits"]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many updates were made, counted as they are; a negative entry is where SIGTERM is to come."""
    made: list[int] = [0, 0]
    real = Loop._update

    def update(self: Loop, batch: object, samples: int) -> None:
        real(self, batch, samples)  # type: ignore[arg-type]
        made[0] += 1
        if made[0] == made[1]:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_update", update)
    return made


# --- many tasks -------------------------------------------------------------------------------------------


def test_a_suite_is_its_transfers(tmp_path: Path, tasks: list[str]) -> None:
    found = understudy.suite(tasks, "cnn:4", run=tmp_path / "a", **QUICK)
    assert [(row.name, row.group, row.classes, row.examples) for row in found.facts.tasks] == [
        ("resisc45", "specialized", 2, 8), ("shades", "", 3, 12), ("digits", "", 10, 359),
    ]  # fmt: skip
    alone = understudy.transfer(tasks[1], "cnn:4", run=tmp_path / "alone", **QUICK)
    own = Run(found.path / "shades")
    assert own.models["model-0"].read_bytes() == alone.models["model-0"].read_bytes()
    assert found.facts.tasks[1].results[0].accuracies == (alone.facts.of("model")[0].mean("accuracy"),)
    page = found.report.read_text()
    assert 'href="shades/report.html"' in page
    assert not found.facts.failed


def test_a_task_that_fails_does_not_stop_the_others(
    tmp_path: Path, tasks: list[str], capsys: pytest.CaptureFixture[str], steps: list[int]
) -> None:
    """Its reason stands in the table and the page, the exit code is 1, and it is tried again where it is mended."""
    words = ["suite", tasks[0], "mnist", tasks[1], "--backbone", "cnn:4", *FLAGS, "--run", str(tmp_path / "a")]
    home = tmp_path / "data"
    assert main([*words, "--data-root", str(home)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "mnist failed: mnist is not in" in said
    assert "mean of all (2 of 3)" in said
    found = RunCollection(tmp_path / "a")
    assert list(found.facts.failed) == ["mnist"]
    assert "mnist is not in" in found.report.read_text()
    assert not (found.path / "mnist").exists()
    assert steps[0] == 12
    assert main(["resume", str(found.path)]) == 1, "it is tried again, and is still not there"
    assert steps[0] == 12, "the others are not made again"
    raw = home / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 10)):
        header = b"\0\0\x08"
        images = np.zeros((count, 28, 28), np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            header + b"\x03" + np.array(images.shape, ">i4").tobytes() + images.tobytes()
        )
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            header + b"\x01" + np.array(labels.shape, ">i4").tobytes() + labels.tobytes()
        )
    assert main(["resume", str(found.path)]) == 0
    assert (steps[0], found.facts.failed) == (18, {})
    capsys.readouterr()
    assert main(["resume", str(found.path)]) == 2
    assert "is finished; its page is" in " ".join(capsys.readouterr().err.split())


def test_a_fault_of_ours_costs_one_task_and_leaves_its_traceback(
    tmp_path: Path, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Loop.run

    def run(self: Loop) -> int:
        if len(self.members[0].network.classes) == 2:
            raise RuntimeError("out of memory\nand more")
        return real(self)

    monkeypatch.setattr(Loop, "run", run)
    found = understudy.suite(tasks[:2], "cnn:4", run=tmp_path / "a", **QUICK)
    assert found.facts.failed["resisc45"].startswith("RuntimeError: out of memory (see ")
    assert "Traceback" in (found.path / "errors" / "resisc45.txt").read_text()
    assert found.facts.tasks[1].results


@pytest.mark.parametrize("shots", [(), (2,)])
def test_stopped_by_a_signal_and_resumed(
    tmp_path: Path, tasks: list[str], steps: list[int], shots: tuple[int, ...]
) -> None:
    ways: dict[str, Any] = {**QUICK, "shots": shots, "draws": 2}
    whole = understudy.suite(tasks[:2], "cnn:4", run=tmp_path / "whole", **ways)
    total = steps[0]
    steps[:] = 0, total - 3
    parts = tmp_path / "parts"
    with pytest.raises(Interrupted, match=f"continue with: understudy resume {parts}"):
        understudy.suite(tasks[:2], "cnn:4", run=parts, **ways)
    assert [bool(row.results) for row in RunCollection(parts).facts.tasks] == [True, False]
    assert not RunCollection(parts).facts.failed
    assert main(["resume", str(parts)]) == 0
    assert steps[0] == total, "no step was made twice"
    assert RunCollection(parts).facts.tasks == whole.facts.tasks
    for model in sorted(whole.path.rglob("*.safetensors")):
        if model.parent.name == "models":
            assert (parts / model.relative_to(whole.path)).read_bytes() == model.read_bytes()
    with pytest.raises(UnderstudyError, match="is finished; its page is"):
        understudy.suite(tasks[:2], "cnn:4", run=parts, **ways)
    assert steps[0] == total, "the same again has nothing left to do"


def test_shots_are_those_of_transfer(tmp_path: Path, tasks: list[str]) -> None:
    found = understudy.suite([tasks[1]], "cnn:4", shots=[3, 1], draws=2, run=tmp_path / "a", **QUICK)
    (row,) = found.facts.tasks
    assert [(one.shots, one.examples, len(one.accuracies)) for one in row.results] == [(1, 3, 2), (3, 9, 2)]
    assert row.results == RunCollection(found.path / "shades").facts.results
    page = found.report.read_text()
    assert "1-shot" in page
    assert f"{100 * min(row.results[0].accuracies):.2f} to {100 * max(row.results[0].accuracies):.2f}" in page


def test_data_in_hand(tmp_path: Path, tasks: list[str]) -> None:
    """A dict names the tasks; one whose data came from Python cannot be done again without it."""
    x, y = torch.randint(0, 255, (30, 3, 10, 10), dtype=torch.uint8), torch.arange(30) % 3
    source = array_source("noise", x, y)
    whole = Splits(source, source.subset(torch.arange(9)))
    overrides: dict[str, Any] = {
        "noise": whole,
        "shades": tasks[1],
        "digits": (torch.rand(40, 5), torch.arange(40) % 2),
    }
    found = understudy.suite(overrides, "cnn:4", run=tmp_path / "a", **QUICK)
    assert [row.name for row in found.facts.tasks if row.results] == ["noise", "shades"]
    assert "holds vectors" in found.facts.failed["digits"], "no modality that the backbone can read"
    assert main(["resume", str(found.path)]) == 1
    assert "is a Python object; call understudy.suite again" in found.facts.failed["digits"], "not the named set"


def test_a_name_given_in_python_is_kept_when_resumed(tmp_path: Path, tasks: list[str], steps: list[int]) -> None:
    steps[:] = 0, 3
    with pytest.raises(Interrupted):
        understudy.suite({"hues": tasks[1]}, "cnn:4", run=tmp_path / "a", **QUICK)
    assert main(["resume", str(tmp_path / "a")]) == 0
    assert [row.name for row in RunCollection(tmp_path / "a").facts.tasks if row.results] == ["hues"]
    assert steps[0] == 6


def test_a_backbone_that_reads_another_modality(tmp_path: Path, tasks: list[str]) -> None:
    """One that was told to see color differences is of no use on gray images; the task says so, the others go on."""
    colors = painted(tmp_path / "colors", ("a", "b"))
    for file in colors.rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    backbone = understudy.train(
        colors, "cnn:4", modality="chrominance", epochs=1, batch_size=8, run=tmp_path / "backbone"
    ).path
    found = understudy.suite([tasks[1], str(colors)], backbone, run=tmp_path / "a", **QUICK)
    assert list(found.facts.failed) == ["shades"]
    assert "chrominance" in found.facts.failed["shades"]


# --- VTAB -------------------------------------------------------------------------------------------------


def source_of(counts: list[int], name: str = "some", part: str = "train") -> Source:
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    classes = [str(c) for c in range(len(counts))]
    return array_source(name, torch.zeros(len(targets), 1, 2, 2, dtype=torch.uint8), targets, classes, split=part)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=12), st.data())
def test_in_proportion(counts: list[int], data: st.DataObject) -> None:
    """Exactly as many as asked, within one of each class's share unless the share is below one; a function of ids."""
    source = source_of(counts)
    count = data.draw(st.integers(len(counts), sum(counts)))
    rows = stratified_sample(source, count, 7)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert source.targets is not None
    taken = source.targets[rows].bincount(minlength=len(counts)).tolist()
    assert sum(taken) == count
    shares = [count * c / sum(counts) for c in counts]
    assert all(1 <= t <= c for t, c in zip(taken, counts, strict=True))
    assert all(t <= max(1, share + 1) for t, share in zip(taken, shares, strict=True))
    if min(shares) >= 1:
        assert all(abs(t - share) <= 1 for t, share in zip(taken, shares, strict=True))
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(1))
    again = source.subset(order)
    assert set(again.ids[stratified_sample(again, count, 7)].tolist()) == set(source.ids[rows].tolist())


def test_in_proportion_says_what_cannot_be() -> None:
    source = source_of([5, 5, 5])
    for count in (2, 16):
        with pytest.raises(UnderstudyError, match=f"cannot draw {count} samples from some, which has 15 in 3 classes"):
            stratified_sample(source, count, 0)
    assert len(stratified_sample(source, 2, 0, every_class=False)) == 2


def test_a_thousand_examples() -> None:
    source = source_of([900, 300, 99, 1])
    found = vtab_subsets(Splits(source), 0)
    train, held, both = (set(found[name].ids) for name in ("train800", "val200", "train800val200"))
    assert (len(train), len(held), len(both)) == (800, 200, 1000)
    assert train | held == both
    assert all(found["train800"].classes.values()), "a class of one sample has it in the training part"
    assert vtab_subsets(Splits(source), 0) == found
    assert set(vtab_subsets(Splits(source), 1)["train800"].ids) != train
    with pytest.raises(UnderstudyError, match="has 999 examples, fewer than the 1,000 of VTAB-1k"):
        vtab_subsets(Splits(source_of([500, 499])), 0)


def test_a_validation_part_of_its_own_gives_the_two_hundred() -> None:
    parts = Splits(source_of([500, 400]), None, source_of([150, 150], part="validation"))
    found = vtab_subsets(parts, 0)
    assert parts.validation is not None
    assert set(found["train800"].ids) <= set(parts.train.ids.tolist())
    assert set(found["val200"].ids) <= set(parts.validation.ids.tolist())
    assert {name: len(own) for name, own in found["val200"].classes.items()} == {"0": 100, "1": 100}


def test_vtab_learns_from_all_thousand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The set's own validation part is among them; the test part is whole."""
    noise = torch.Generator().manual_seed(0)

    def part(n: int, which: str) -> Source:
        x = torch.randint(0, 255, (n, 1, 8, 8), dtype=torch.uint8, generator=noise)
        return array_source("dtd", x, torch.arange(n) % 2, split=which)

    splits = Splits(part(900, "train"), part(50, "test"), part(300, "validation"))
    found = understudy.suite({"dtd": splits}, "cnn:4", vtab=True, run=tmp_path / "a", **QUICK)
    (row,) = found.facts.tasks
    assert (row.group, row.results[0].examples, row.examples) == ("natural", 1000, 50)
    run = Run(found.path / "dtd")
    assert run.recipe.with_validation
    chosen = read_subset(Path(str(run.recipe.subset)))
    assert splits.validation is not None
    assert len(set(chosen.ids) & set(splits.validation.ids.tolist())) == 200
    assert len(list((found.path / "subsets").glob("dtd-*.json"))) == 3
    assert "not the published lists" in found.report.read_text()
    words = ["suite", "digits", "--backbone", "cnn:4", *FLAGS, "--vtab", "--run", str(tmp_path / "b")]
    assert main(words) == 0
    assert "1,000" in capsys.readouterr().out
    digits = read_subset(tmp_path / "b" / "subsets" / "digits-train800.json")
    assert set(digits.ids) <= set(open_source("digits").train.ids.tolist())


# --- the table --------------------------------------------------------------------------------------------


def row(name: str, *accuracies: float, reason: str = "") -> TaskResult:
    results = [ShotResult(shots=0, examples=1000, accuracies=accuracies)] if accuracies else []
    return TaskResult(name=name, group=group_of(name), classes=10, examples=100, results=results, reason=reason)


def test_the_table_in_the_paper_s_form() -> None:
    """Groups in VTAB's order with their means; in the mean of all every task counts once."""
    rows = [row("digits", 0.9), row("clevr-count", 0.5), row("svhn", 0.7), row("dtd", 0.6, 0.2, 0.4), row("pcam")]
    found = lines(rows)
    assert [(line.kind, line.label) for line in found] == [
        ("group", "natural"), ("task", "svhn"), ("task", "dtd"), ("mean", "mean of natural (2)"),
        ("group", "specialized"), ("task", "pcam"),
        ("group", "structured"), ("task", "clevr-count"), ("mean", "mean of structured (1)"),
        ("group", "others"), ("task", "digits"), ("mean", "mean of others (1)"),
        ("mean", "mean of all (4 of 5)"),
    ]  # fmt: skip
    assert found[2].cells[-1] == ("40.00", "20.00 to 60.00"), "the median, the worst and the best"
    assert found[3].cells[-1][0] == f"{100 * fmean((0.7, 0.4)):.2f}"
    assert found[-1].cells[-1][0] == f"{100 * fmean((0.9, 0.5, 0.7, 0.4)):.2f}"
    assert [line.label for line in lines([row("digits", 0.5)])] == ["digits", "mean of all (1)"], "no group, no heads"


def test_the_page_quotes_what_it_is_given() -> None:
    rows = [row("a<b>", 0.5), row("bad", reason="it is <not> there")]
    facts = SuiteFacts(name="x", backbone="timm:<net>", command=["understudy", "suite", "a<b>"], tasks=rows)
    page = render(facts, Path())
    assert "<b>" not in page
    assert "<not>" not in page
    assert "it is &lt;not&gt; there" in page
    assert "1 of them done" in page


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "DATA is missing; write understudy suite digits"),
     (["digits"], "--backbone is missing; write --backbone timm:"),
     (["digits", "DIGITS", "--backbone", "cnn:4"], "both be the task digits"),
     (["digits", "digits", "--backbone", "cnn:4"], "the task digits is named twice"),
     (["digit", "--backbone", "cnn:4", "--from-scratch"], "no folder, file or named data set 'digit'; did you mean"),
     (["no/such/place", "--backbone", "cnn:4", "--from-scratch"], "'no/such/place'; check the path"),
     (["digits", "--backbone", "cnn:4"], "pass --from-scratch"),
     (["digits", "--backbone", "cnn:4", "--from-scratch", "--vtab", "--shots", "1"], "choose one"),
     (["digits", "--backbone", "cnn:4", "--from-scratch", "--shots", "0"],
      "--shots: Input should be greater than or equal to 1"),
     (["digits", "--backbone", "cnn:4", "--from-scratch", "--shots", "few"],
      "--shots: Input should be a valid integer")],
)  # fmt: skip
def test_bad_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["suite", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_folder_of_another_suite(tmp_path: Path, tasks: list[str]) -> None:
    found = understudy.suite(tasks[:1], "cnn:4", run=tmp_path / "a", **QUICK)
    with pytest.raises(UnderstudyError, match="holds results of other options; choose another"):
        understudy.suite(tasks[:2], "cnn:4", run=found.path, **QUICK)
    with pytest.raises(UnderstudyError, match="holds a run; choose another"):
        understudy.suite(tasks[:1], "cnn:4", run=found.path / "resisc45", **QUICK)
    fewer: dict[str, Any] = {**QUICK, "steps": 2}
    again = understudy.suite(tasks[:1], "cnn:4", run=found.path, overwrite=True, **fewer)
    assert Run(again.path / "resisc45").recipe.steps == 2
    with pytest.raises(UnderstudyError, match="subset cannot be set here"):
        understudy.suite(tasks[:1], "cnn:4", subset="some.json", **QUICK)
    with pytest.raises(UnderstudyError, match="takes a list of tasks"):
        understudy.suite("digits", "cnn:4", **QUICK)
    with pytest.raises(UnderstudyError, match="DATA is missing"):
        understudy.suite([], "cnn:4", **QUICK)
    (again.path / "collection.json").write_text("{")
    with pytest.raises(UnderstudyError, match=r"collection\.json is damaged"):
        understudy.suite(tasks[:1], "cnn:4", run=found.path, **QUICK)


def test_the_record_says_all_that_was_asked(tmp_path: Path, tasks: list[str]) -> None:
    found = understudy.suite(tasks[:1], "cnn:4", run=tmp_path / "a", seed=3, **QUICK)
    record = json.loads((found.path / "collection.json").read_text())
    assert record["config"] == {"kind": "suite", "data": [tasks[0]], "backbone": "cnn:4", "seed": 3} | QUICK
    assert record["runs"] == ["resisc45"]
    assert Run(found.path / "resisc45").recipe.seed == 3
