"""`make demo` shows a gain that its own test confirms, in Python as on the command line."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

import understudy
from understudy.cli import main
from understudy.reporting.finding import finding

ROOT = Path(__file__).parents[1]


def commands() -> list[list[str]]:
    """What `make demo` types, with the defaults of its variables."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+) \?= (.*)$", text, re.MULTILINE))
    recipe = re.findall(r"^demo:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[0]
    lines = [re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], ""), line) for line in recipe.splitlines()]
    return [shlex.split(line)[1:] for line in lines if re.match(r"\t/understudy ", line)]


def test_the_demo_shows_a_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train, distill = commands()
    for words in (train, distill):
        assert main([*words, "--threads", "1"]) == 0
    facts = understudy.Run(Path("runs/demo")).facts
    found = finding(facts)
    assert found.verdict == "A clear gain"
    assert f"{found.verdict}: {found.sentence}" in " ".join(capsys.readouterr().out.split())
    assert (facts.rows[0].role, len(facts.of("distilled")[0].seeds)) == ("teacher", 5)


def test_the_readme_does_in_python_what_the_demo_does() -> None:
    train, distill = commands()
    (block,) = (one for one in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
                if "understudy.distill" in one)  # fmt: skip
    said: dict[str, list[tuple[str, dict[str, object]]]] = {}

    class Recorder:
        path = report = "runs/demo/teachers"

        def __getattr__(self, verb: str) -> object:
            def record(*data: str, **options: object) -> Recorder:
                said.setdefault(verb, []).append((data[-1], options))
                return self

            return record

    exec(block.replace("import understudy", ""), {"understudy": Recorder(), "print": lambda *_: None})
    for verb, words in (("train", train), ("distill", distill)):
        ((model, options),) = said[verb]
        typed = {flag[2:].replace("-", "_"): value for flag, value in pairwise(words) if flag[:2] == "--"}
        assert typed.pop("model" if verb == "train" else "student") == model
        assert {name: str(value) for name, value in options.items()} == {
            name: value for name, value in typed.items() if name not in ("run", "overwrite", "teacher")
        }
