"""The documentation: links lead somewhere, the table of methods is up to date, and what it tells to type works."""

from __future__ import annotations

import doctest
import importlib.util
import re
import shlex
import shutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from cyclopts import CycloptsError
from PIL import Image
from sklearn.datasets import load_digits

import understudy
from understudy.cli import main
from understudy.cli.app import app
from understudy.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "docs" / "_build"
GUIDES = [*sorted((ROOT / "docs" / "guides").glob("*.md")), ROOT / "docs" / "methods" / "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# what the commands of the guides name -> something as small as can be
SMALLER = {
    "timm:efficientnet_lite0": "runs/backbone", "timm:mobilenetv3_small_050": "mlp:4x1",
    "cnn:32-64-128": "cnn:4", "cnn:16-32": "mlp:4x1", "mlp:32x1": "mlp:4x1",
    "--budget 10m": "--steps 2 --teacher-steps 0", "--budget 30m": "--student mlp:4x1 --steps 2 --teacher-steps 0",
    "--views 32": "--views 1", "--shots 1,5,10": "--shots 1 --draws 1", "--seeds 5": "--seeds 2", "--epochs 3": "",
    "--format onnx int8": "--format torch", "--formats onnx int8": "--formats torch",
}  # fmt: skip
SHORTER = {
    "transfer": "--steps 1 --batch-size 8 --crop-size 8 --threads 1",
    "compress": "--views 1 --threads 1 --format torch",
    **dict.fromkeys(("train", "distill", "compare", "specialists"), "--steps 2 --batch-size 8 --threads 1"),
}


@cache
def of_build(name: str) -> ModuleType:
    """A module of docs/_build, which is not on the path."""
    spec = importlib.util.spec_from_file_location(name, BUILD / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(text: str) -> list[str]:
    """The targets of a page's links, except those to other sites and those in code."""
    plain = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", plain) if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE):
        words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).lower()
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", words).strip()))
    return found


def broken(page: Path) -> list[str]:
    found: list[str] = []
    for link in links(page.read_text(encoding="utf-8")):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.is_file() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


def test_no_link_is_broken() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    assert {str(page.relative_to(ROOT)): wrong for page in pages if (wrong := broken(page))} == {}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# One `two`: three\n[a](b.md) [b](#one-two-three) [c](#two) [d](.) [e](https://x)\n`[f](g)`")
    assert broken(page) == ["b.md", "#two", "."]


def test_no_link_of_the_site_is_broken_and_all_pages_are_in_its_navigation(tmp_path: Path) -> None:
    of_build("pages").write_site(tmp_path)
    pages = sorted((tmp_path / "docs").rglob("*.md"))
    assert {str(page.relative_to(tmp_path)): wrong for page in pages if (wrong := broken(page))} == {}
    listed = re.findall(r"[\w/-]+\.md", str(yaml.safe_load((tmp_path / "mkdocs.yml").read_text())["nav"]))
    assert set(listed) == {str(page.relative_to(tmp_path / "docs")) for page in pages}


def test_the_examples_of_what_builds_the_site() -> None:
    ran = doctest.testmod(of_build("pages"))
    assert (ran.attempted, ran.failed) == (2, 0)


def test_examples_of_docstrings_are_code_on_the_site() -> None:
    pytest.importorskip("griffe")
    text = "Adds.\n\n>>> 1 + 1  # doctest: +ELLIPSIS\n2\n\nOr not."
    assert of_build("doctests").fenced(text) == "Adds.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nOr not."


def test_the_table_of_methods_is_up_to_date() -> None:
    """`python docs/_build/methods_table.py` writes it."""
    text = (ROOT / "docs" / "methods" / "README.md").read_text(encoding="utf-8")
    assert text == of_build("methods_table").with_table(text)
    pages = {path.name for path in (ROOT / "docs" / "methods").glob("*.md")} - {"README.md"}
    assert pages <= set(links(text))


def test_every_measured_figure_of_the_table_is_on_the_page_of_its_method() -> None:
    module = of_build("methods_table")
    found = {name: row[-1].strip("*") for name in OBJECTIVES if (row := module.row(name))[-1]}
    assert len(found) > 15
    for name, figure in found.items():
        assert figure in " ".join(module.page_of(name).read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of three classes and with the runs that the guides name, all the same."""
    folder = tmp_path_factory.mktemp("guides")
    digits: Any = load_digits()
    for i, label in enumerate(digits.target[:120]):
        if label < 3:
            path = folder / "photos" / f"class {label}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[i] * 15).astype("uint8")).save(path)
    shutil.copy(next((folder / "photos").rglob("*.png")), folder / "query.jpg")
    run = understudy.train(folder / "photos", "cnn:4", run=folder / "runs" / "backbone", epochs=1, batch_size=8,
                           threads=1)  # fmt: skip
    for name in ("teacher", "student", "other", "generalist"):
        shutil.copytree(run.path, run.path.parent / name)
    return folder


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_what_a_guide_tells_to_type_works(
    page: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(folder)
    ran = 0
    for kind, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(block, page.name, "exec"), {})
        for line in block.replace("\\\n  ", "").splitlines() if kind == "console" else ():
            words = shorter(line.partition(" > ")[0])
            assert words.pop(0) == "understudy"
            if "--run" in words:
                shutil.rmtree(words[words.index("--run") + 1], ignore_errors=True)
            assert main(words) == 0, line
            ran += 1
    assert ran


def typed(page: Path) -> list[str]:
    """The commands of a page's console blocks, without redirections."""
    blocks = [block for kind, block in FENCE.findall(page.read_text(encoding="utf-8")) if kind == "console"]
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    return [re.split(r" [>|] ", line)[0] for line in lines if line.startswith("understudy ")]


def test_every_command_of_the_docs_has_the_flags_that_there_are() -> None:
    """Those of CONTRIBUTING.md, which are yet to be written there, are tried by `test_contributing.py`."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    commands = [command for page in pages for command in typed(page)]
    assert len(commands) > 100
    for command in commands:
        app.parse_args(shlex.split(command, comments=True)[1:], print_error=False, exit_on_error=False)


def test_a_wrong_flag_in_the_docs_is_found() -> None:
    with pytest.raises(CycloptsError):
        app.parse_args(["export", "RUN", "--formatt", "onnx"], print_error=False, exit_on_error=False)


def shorter(command: str) -> list[str]:
    for long, short in SMALLER.items():
        command = command.replace(long, short)
    words = shlex.split(command, comments=True)
    return [*words, *shlex.split(SHORTER.get(words[1], ""))]
