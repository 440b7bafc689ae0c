"""The list of all runs below a folder, on the terminal and as a page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

import understudy
from understudy.cli.app import main
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import FewShotFacts, ShotResult, SuiteFacts, TaskResult
from understudy.reporting.finding import accuracy, finding
from understudy.reporting.side_by_side import of_suites
from understudy.verbs.runs import runs

FEW = {"epochs": 1, "precision": "32", "threads": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, one in a folder of its own with another below it, a collection, and one that was not finished."""
    home = tmp_path_factory.mktemp("home") / "runs"
    understudy.train("digits", "mlp:8x1", run=home / "plain", **FEW)
    understudy.train("digits", "cnn:4", run=home / "deep" / "outer", **FEW)
    understudy.train("digits", "mlp:4x1", run=home / "deep" / "outer" / "inner", **FEW)
    understudy.few_shots(
        "digits", home / "deep" / "outer", shots=(1, 2), draws=2, steps=1, run=home / "shots", threads=1
    )
    shutil.copytree(home / "plain", home / "stopped")
    for name in ("evaluation.json", "report.html"):
        (home / "stopped" / name).unlink()
    return home


def test_every_run_is_listed_once(home: Path) -> None:
    found = {one.path: one for one in runs(home).facts.entries}
    assert set(found) == {"plain", "deep/outer", "deep/outer/inner", "shots", "stopped"}
    assert found["shots"].kind == "transfer"
    plain, facts = found["plain"], understudy.Run(home / "plain").facts
    assert plain.accuracy == facts.rows[0].mean("accuracy")
    assert (plain.verdict, plain.data, plain.page) == ("Measured", "digits", "plain/report.html")
    assert (found["stopped"].verdict, found["stopped"].page) == ("Not finished", "")
    moments = [one.created for one in runs(home).facts.entries]
    assert all(moments)
    assert moments == sorted(moments, reverse=True)  # type: ignore[type-var]


def test_links_of_the_page_lead_to_reports(home: Path) -> None:
    found = runs(home)
    text = found.page.read_text()
    links = re.findall(r'href="([^"]+)"', text)
    assert sorted(links) == sorted(one.page for one in found.facts.entries if one.page)
    assert all((home / link).is_file() for link in links)
    assert str(home) not in text


def test_each_cell_is_under_its_heading(home: Path) -> None:
    text = runs(home).page.read_text()
    heads = re.findall(r'<th scope="col"[^>]*>(\w+)</th>', text)
    row = next(row for row in text.split("<tr>") if 'href="plain/report.html"' in row)
    cells = [re.sub(r"<[^>]+>", " ", cell).split() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
    found = dict(zip(heads, cells, strict=True))
    accuracy_shown = f"{100 * (understudy.Run(home / 'plain').facts.rows[0].mean('accuracy') or 0):.2f}%"
    assert (found["run"], found["data"], found["verb"]) == (["plain"], ["digits"], ["train"])
    assert found["accuracy"] == [accuracy_shown]
    assert found["finding"][0] == "Measured"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["begun"][0])


def test_damaged_runs_are_listed_with_the_reason(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "plain", tmp_path / "ok")
    shutil.copytree(home / "plain", tmp_path / "bad")
    (tmp_path / "bad" / "run.json").write_text("{")
    found = {one.path: one for one in runs(tmp_path).facts.entries}
    assert found["ok"].verdict == "Measured"
    assert found["bad"].verdict == "Damaged"
    assert "run.json" in found["bad"].sentence


def test_command_line(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(home)]) == 0
    out = capsys.readouterr().out
    assert "Measured" in out
    assert f"page: {home / 'index.html'}" in out
    assert main(["runs", str(home), "--json"]) == 0
    assert {one["path"] for one in json.loads(capsys.readouterr().out)} >= {"plain", "shots"}
    assert main(["runs", str(tmp_path)]) == 2
    assert "holds no runs; train one with" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "absent")]) == 2


def test_a_page_of_others_stays(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "plain", tmp_path / "plain")
    (tmp_path / "index.html").write_text("<title>mine</title>")
    with pytest.raises(UnderstudyError, match="is not a page of Understudy, and stays"):
        runs(tmp_path)
    assert (tmp_path / "index.html").read_text() == "<title>mine</title>"


def test_names_are_text(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "plain", tmp_path / "<img src=x>")
    assert "<img src=x>" not in runs(tmp_path).page.read_text()


def test_findings_of_tables() -> None:
    results = [
        ShotResult(shots=1, examples=10, accuracies=(0.5,)),
        ShotResult(shots=5, examples=50, accuracies=(0.7, 0.8)),
    ]
    shots = FewShotFacts(name="s", data="d", backbone="b", results=results)
    assert accuracy(shots) == pytest.approx(0.75)
    assert finding(shots).sentence == "b: 50.0% with 1 example, 75.0% with 5 examples per class."
    one = ShotResult(shots=0, examples=9, accuracies=(0.5,))
    tasks = [TaskResult(name="x", results=[one]), TaskResult(name="y", reason="no data")]
    assert finding(SuiteFacts(name="s", backbone="b", tasks=tasks)).verdict == "1 task failed"
    assert accuracy(SuiteFacts(name="s", backbone="b", tasks=tasks)) == 0.5
    assert finding(SuiteFacts(name="s", backbone="b", tasks=tasks[1:])).verdict == "Not finished"


def test_backbones_are_side_by_side(home: Path, tmp_path: Path) -> None:
    """Few-shot transfers of the same data are; a single one is not."""
    shutil.copytree(home / "shots", tmp_path / "pretrained")
    assert "<figure>" not in runs(tmp_path).page.read_text()
    understudy.few_shots("digits", "cnn:4", shots=(1, 2), draws=2, steps=1, run=tmp_path / "scratch", threads=1,
                         from_scratch=True, rule="bit", crop_size=8)  # fmt: skip
    found = runs(tmp_path)
    page = found.page.read_text()
    assert page.count("<figure>") == 1
    assert "digits, from few examples of each class" in page
    for one in found.facts.few_shots:
        cells = "".join(f"<td>{100 * (result.median or 0):.2f}</td>" for result in one.results)
        assert re.search(rf"\({one.name}\)</th>{cells}", page)


def test_suites_are_compared_on_the_tasks_they_share() -> None:
    def suite(name: str, **tasks: float) -> SuiteFacts:
        scored = [TaskResult(name=task, results=[ShotResult(shots=0, examples=9, accuracies=(accuracy,))])
                  for task, accuracy in tasks.items()]  # fmt: skip
        return SuiteFacts(name=name, backbone="b", tasks=[*scored, TaskResult(name="failed", reason="no data")])

    (found,) = of_suites([suite("one", x=0.5, y=0.6, z=0.7), suite("two", y=0.8, x=0.7), suite("alone", w=0.1)])
    assert found.names == ["b (one)", "b (two)"]
    assert found.rows == [("a x", "50.00", "70.00"), ("b y", "60.00", "80.00"), ("mean of 2", "55.00", "75.00")]
    assert of_suites([suite("one", x=0.5), suite("two", y=0.5)]) == []


def test_data_of_a_collection_has_no_absolute_path(home: Path, tmp_path: Path) -> None:
    with Image.new("L", (8, 8)) as image:
        for path in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
            (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "photos" / path)
    understudy.suite([tmp_path / "photos", "digits"], "cnn:4", run=tmp_path / "runs" / "suite", steps=1, crop_size=8,
                     rule="bit", from_scratch=True, batch_size=4, threads=1)  # fmt: skip
    found = runs(tmp_path / "runs")
    assert found.facts.entries[0].data == "photos digits"
    assert str(tmp_path) not in found.page.read_text()
