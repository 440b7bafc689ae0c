"""Names of files and classes are text wherever they are shown: nothing in them is obeyed, and nothing is lost."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import understudy
from understudy.cli import predict as predict_command
from understudy.cli.app import main
from understudy.cli.show import print_rows
from understudy.config.options import Options
from understudy.config.places import shown
from understudy.config.recipe import TrainRecipe
from understudy.config.yaml import recipe_from, to_yaml
from understudy.errors import Interrupted, UnderstudyError, UnderstudyWarning
from understudy.escaping import csv_cell, json_escaped, markdown, markdown_code, printable
from understudy.evaluation.facts import FewShotFacts, RunFacts
from understudy.exporters import Interface, ModelCardInfo, model_card
from understudy.exporters.build import ExportedFile, Measurement
from understudy.files import text_fault
from understudy.models import InputContract
from understudy.papers.experiment import Comparison
from understudy.reporting import console, render
from understudy.terminal import Terminal
from understudy.training.logging import ConsoleLogger
from understudy.verbs.predict import Prediction

EVIL = (
    "<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", "@SUM(A1)", "-1", "+1", "\t=1", "\x1b[31mred\x1b]0;owned\x07",
    "[bold]rich[/bold]", "\u202egnp.exe", "$\\frac$", "`tick`", "line\nbreak: x\n---\ny", "a|b", "\x9b31m", "&lt;b&gt;",
    "![x](http://x)", "\u2066a\u2069", ":smile:", "'quoted\"", "\udcff",
)  # fmt: skip
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
names = st.one_of(st.sampled_from(EVIL), st.text(st.characters(exclude_categories=[]), min_size=1, max_size=30))


@given(names)
def test_what_is_printed_is_one_line_without_controls(name: str) -> None:
    assert not OBEYED.search(printable(name))
    assert "\n" not in printable(name)
    assert printable(printable(name)) == printable(name)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M"])))
def test_names_of_any_language_stay_as_they_are(name: str) -> None:
    assert printable(name) == name


@given(names)
def test_json_holds_the_same_name(name: str) -> None:
    text = json_escaped(json.dumps({"name": name}, ensure_ascii=False))
    assert json.loads(text) == {"name": name}
    assert not OBEYED.search(text)


@settings(max_examples=40, deadline=None)
@given(names.filter(lambda name: not text_fault(name)))
def test_yaml_holds_the_same_name(name: str) -> None:
    recipe = TrainRecipe(data="digits", model="mlp:8x1", only_classes=(name,))
    text = to_yaml(recipe)
    assert recipe_from(yaml.safe_load(text)) == recipe
    assert not OBEYED.search(text)


@given(names)
def test_no_cell_of_a_table_is_a_formula(name: str) -> None:
    cell = csv_cell(name)
    assert cell.lstrip()[:1] not in tuple("=+-@")
    assert cell.removeprefix("'") == printable(name) or cell == printable(name)


def rendered(text: str) -> str:
    """What CommonMark shows of text with backslash escapes; whatever else is markup is an error."""
    plain = re.sub(r"\\([!-/:-@\[-`{-~])", lambda match: f"\0{ord(match[1])}\0", text)
    assert not re.search(r"[`*_<>\[\]|&$~\\]|https?://", plain), text
    return re.sub("\0([0-9]+)\0", lambda match: chr(int(match[1])), plain)


@given(names)
def test_markdown_shows_the_name_and_obeys_nothing_in_it(name: str) -> None:
    assert rendered(markdown(name)) == printable(name)
    code = markdown_code(name)
    assert "|" not in code.replace(r"\|", "")
    assert "\n" not in code
    if code[0] == "`":
        fence = re.match("`+", code)
        assert fence is not None
        assert code.endswith(fence[0])
        assert fence[0] not in re.findall("`+", code[len(fence[0]) : -len(fence[0])])


# --- the terminal ---------------------------------------------------------------------------------------------


def spoken(out: str) -> str:
    """What was printed without a terminal: text alone."""
    assert not OBEYED.search(out), repr(out)
    return out


def facts_of(name: str, **more: Any) -> RunFacts:
    row = {"name": name, "role": "model", "model": name, "seeds": [{"seed": 0, "accuracy": 0.5, "errors": 5}]}
    data = {"name": name, "examples": 10, "classes": [name, "other"]}
    values: dict[str, Any] = {"name": name, "kind": "train", "data": data, "rows": [row], "cautions": [name]}
    return RunFacts.from_json(values | {"notes": [name], "command": ["understudy", "train", name]} | more)


@pytest.mark.parametrize("name", EVIL)
def test_every_table_line_and_progress_shows_names_as_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for part in console(facts_of(name)):
        Terminal().print(part)
    print_rows([(name, 1)], (name, ""))
    Terminal().say(name, "bold")
    Terminal().print(name)
    logger = ConsoleLogger(name)
    logger.on_train_start(0, 1)
    logger.on_train_end()
    Comparison((name,), [(name,)], [name]).show(name)
    out = spoken(capsys.readouterr().out)
    assert "".join(printable(name).split()) in "".join(out.split())


@pytest.mark.parametrize("name", EVIL)
def test_a_progress_bar_is_drawn_by_rich_alone(name: str) -> None:
    terminal = Terminal()
    terminal.file, terminal._force_terminal = io.StringIO(), True
    logger = ConsoleLogger(name, terminal)
    logger.on_train_start(0, 10)
    assert logger.bar is not None
    logger.bar.refresh()
    logger.on_train_end()
    drawn = terminal.file.getvalue()
    for sequence in ("\x1b]0;", "\x07", "\x9b", "\u202e", "\x1b[31mred"):
        assert sequence not in drawn


@pytest.mark.parametrize("name", EVIL)
def test_errors_and_warnings_show_names_as_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (UnderstudyError, UnderstudyWarning):
        spoken(str(kind(f"{name} is not a folder")))
    spoken(str(Interrupted(name, 3, 2)))
    assert main(["train", f"no/{name}", "--model", f"mlp:{name}"]) == 2
    assert spoken(capsys.readouterr().err).count("\n") == 1
    spoken(warnings.formatwarning(UnderstudyWarning(name), UnderstudyWarning, "file.py", 1, ""))


def predictions(all_names: Sequence[str]) -> list[Prediction]:
    return [Prediction(name, (name,), (1.0,)) for name in all_names] + [Prediction(EVIL[0], (), (), EVIL[6])]


def test_predictions_are_tables_csv_and_json_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    predict_command._print_table(predictions(EVIL))
    spoken(capsys.readouterr().out)
    predict_command._print_csv(predictions(EVIL))
    out = spoken(capsys.readouterr().out)
    head, *rows = csv.reader(io.StringIO(out))
    assert head == ["path", "rank", "class", "probability", "error"]
    assert [row[2] for row in rows[:-1]] == [csv_cell(name) for name in EVIL]
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    predict_command._print_json(predictions(EVIL))
    found = json.loads(spoken(capsys.readouterr().out))
    assert [one["path"] for one in found[:-1]] == list(EVIL)
    assert [one["classes"][0]["class"] for one in found[:-1]] == list(EVIL)


def test_only_the_terminal_prints() -> None:
    """A rich console of another making would obey names."""
    source = Path(understudy.__file__).parent
    others = [
        file.relative_to(source).as_posix()
        for file in source.rglob("*.py")
        if re.search(r"\bConsole\(|import Console\b", file.read_text()) and file.name != "terminal.py"
    ]
    assert others == []


# --- pages and cards ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(names)
def test_a_page_shows_names_as_text(name: str) -> None:
    html = render(facts_of(name), Path())
    assert not OBEYED.search(html)
    assert "<img" not in html
    assert html.encode()


def card(classes: tuple[str, ...], name: str, data: str, model: str = "cnn:2") -> str:
    contract = InputContract((3, 8, 8), (0.5,) * 3, (0.5,) * 3, classes)
    measured = Measurement(1, 0.5, 1.0, 1.0)
    file = ExportedFile(1, 0.5, 1.0, 1.0, "onnx", Path("model.onnx"), 1.0, 0.0, measured)
    info = ModelCardInfo(name, model, data, None, 10, 0, facts_of(name), None)
    return model_card(info, Interface("embedded", (8, 8, 3), "NHWC", "", contract), [file], {"predict.py": file})


@settings(max_examples=60, deadline=None)
@given(names, names)
def test_a_card_holds_names_as_text_and_its_front_matter_gives_them_back(name: str, data: str) -> None:
    text = card((name, data), name, data, model=name)
    assert not OBEYED.search(text)
    _, front, body = re.split(r"^---$\n?", text, maxsplit=2, flags=re.MULTILINE)
    facts = yaml.safe_load(front)["model-index"][0]
    assert facts["name"] == name
    assert facts["results"][0]["dataset"]["name"] == shown(data)
    assert not re.search(r"(?<!\\)<", re.sub("(`+).*?(?<!`)\\1(?!`)", "", body, flags=re.DOTALL))
    (listed,) = re.findall(r"^- Classes, in order: (.*)\.$", body, re.MULTILINE)
    assert rendered(listed) == f"{printable(name)}, {printable(data)}"


def test_the_metadata_of_an_exported_file_gives_the_names_back() -> None:
    contract = InputContract((3, 8, 8), (0.5,) * 3, (0.5,) * 3, EVIL)
    metadata = Interface("embedded", (8, 8, 3), "NHWC", "", contract).metadata("timm:resnet18?weights=/home/me/a.pth")
    assert json.loads(metadata["classes"]) == list(EVIL)
    assert json.loads(metadata["model"]) == "timm:resnet18?weights=a.pth"
    assert all(value.encode() and not OBEYED.search(value) for value in metadata.values())


def test_a_table_of_an_experiment_has_its_cells_and_nothing_else() -> None:
    made = Comparison(("net", "class"), [(name, name) for name in EVIL], ["<b>"])
    table, note = made.markdown().strip().split("\n\n")
    for line, name in zip(table.split("\n")[2:], EVIL, strict=True):
        cells = re.split(r"(?<!\\)\|", line)
        assert [rendered(cell.strip()) for cell in cells[1:-1]] == [printable(name).strip()] * 2
    assert note == r"\<b\>"


# --- paths ----------------------------------------------------------------------------------------------------


def test_no_page_and_no_card_names_where_things_are_on_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, teacher and run in absolute places, with a space in one, worked on from elsewhere."""
    home, elsewhere = tmp_path / "a user" / "work", tmp_path / "elsewhere"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    folder = home / "my photos"
    x = torch.randint(256, (40, 8, 8, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    from PIL import Image

    for part, rows in (("train", range(24)), ("test", range(24, 40))):
        for row in rows:
            place = folder / part / f"class {row % 2}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x[row]).save(place / f"{row}.png")
    fast = ["--epochs", "1", "--batch-size", "8", "--accelerator", "cpu", "--workers", "0", "--precision", "32"]
    teacher, student = home / "runs" / "teacher", home / "runs" / "student"
    assert main(["train", str(folder), "--model", "cnn:2-4", "--run", str(teacher), *fast]) == 0
    again = home / "runs" / "again"
    assert main(["train", str(folder), "--model", str(teacher), "--run", str(again), *fast]) == 0
    distill = ["distill", str(folder), "--teacher", str(teacher), "--student", "cnn:2", "--transfer-set", str(folder)]
    assert main([*distill, f"--run={student}", *fast]) == 0
    pages = [run / "report.html" for run in (teacher, again, student)]
    for page in pages:
        text = page.read_text()
        assert "my photos" in text
        for secret in (str(tmp_path), "a user", str(elsewhere)):
            assert secret not in text, page
    assert "initialized from teacher/models/model-0.safetensors" in pages[1].read_text()
    text = card(("cat",), "student-distilled-0", str(folder), model=f"timm:resnet18?weights={home}/w.pth")
    assert "timm:resnet18?weights=w.pth" in text
    assert "my photos" in text
    assert "a user" not in text


def test_sentences_and_names_of_any_facts_lose_the_paths_of_the_options(tmp_path: Path) -> None:
    class Asked(Options):
        data: str = "/home/a user/photos.zip"
        backbone: tuple[str, ...] = ("timm:resnet18?weights=/home/a user/w.pth",)
        only_classes: tuple[str, ...] = ("/m/01abc",)
        subset: str = "/"

    note = f"/home/a user/photos.zip has no class '/m/01abc' (see {tmp_path}/errors), nor has {Path.cwd()}/other"
    facts = facts_of("/m/01abc", notes=[note])
    facts = facts.model_copy(update={"cautions": ["and/all of /a, not /ab"]})
    html = render(facts, tmp_path, Asked(subset="/a"))
    assert "and/all of a, not /ab" in html
    assert "photos.zip has no class &#39;/m/01abc&#39;" in html
    assert "nor has other" in html
    for secret in ("a user", str(tmp_path), str(Path.cwd())):
        assert secret not in html
    few = FewShotFacts(name="x", data=Asked().data, backbone=Asked().backbone[0], command=[], results=[])
    html = render(few, tmp_path, Asked())
    assert "a user" not in html
    assert "photos.zip" in html


def test_a_relative_path_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for given_, wanted in (
        ("runs/teacher", "runs/teacher"), (f"{tmp_path}/runs/a", "runs/a"), ("/elsewhere/photos/", "photos"),
        ("depth=/x/maps", "depth=maps"), ("bit:/w/R50.npz?norm=bn", "bit:R50.npz?norm=bn"), ("/", "."),
        (r"C:\Users\me\photos", "photos"), ("hf:me/data", "hf:me/data"), ("https://x.org/a/b", "https://x.org/a/b"),
        ("cnn:16-32", "cnn:16-32"), (str(tmp_path), tmp_path.name),
    ):  # fmt: skip
        assert shown(given_) == wanted
