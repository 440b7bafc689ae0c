"""CONTRIBUTING, followed to the letter: every file written, every line added, every command typed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (Add [^\n]*)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
STEP = re.compile(
    r"[Ww]rite\s+`(?P<file>src/[^`]+)`:\n\n```python\n(?P<text>.*?)```"
    r"|(?:In `(?P<into>src/[^`]+)`, |and )?(?P<where>below|above) the line `(?P<anchor>[^`]+)`, add:\n\n"
    r"```python\n(?P<lines>.*?)```"
    r"|```console\n(?P<commands>.*?)```",
    re.DOTALL,
)


def test_there_is_a_recipe_for_each_kind_of_part() -> None:
    assert list(RECIPES) == [
        "Add an objective", "Add a data format", "Add a model family", "Add a verb", "Add a paper's experiment",
    ]  # fmt: skip


# one process for all commands: most of the time of each is to import torch
COMMANDS = """
import shlex, subprocess, sys
from understudy.cli import main

for line in sys.argv[1:]:
    words = shlex.split(line)
    code = main(words[1:]) if words[0] == "understudy" else subprocess.run(words).returncode
    if code:
        sys.exit(f"{line}: exit code {code}")
"""


def follow(title: str, root: Path) -> list[str]:
    """Write what a recipe says; returns the commands that it has typed then."""
    into, files, lines, commands = "", 0, 0, list[str]()
    for step in STEP.finditer(RECIPES[title]):
        if step["file"]:
            assert not (root / step["file"]).exists(), step["file"]
            (root / step["file"]).write_text(step["text"])
            files += 1
        elif step["anchor"]:
            into = step["into"] or into
            add_lines(root / into, step["anchor"].replace("\\n", "\n"), step["lines"], below=step["where"] == "below")
            lines += 1
        else:
            commands += step["commands"].splitlines()
    assert files, title
    assert lines == RECIPES[title].count("the line `") > 0
    assert commands, title
    return commands


def test_the_recipes_work_as_they_are_written(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    commands = [command for title in RECIPES for command in follow(title, tmp_path)]
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "PATH": paths}
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS, *commands], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, (ran.stdout, ran.stderr)


def add_lines(path: Path, anchor: str, lines: str, *, below: bool) -> None:
    text = path.read_text()
    assert text.count(anchor) == 1, (path, anchor)
    at = text.index(anchor) + (len(anchor) if below else 0)
    if below:  # an opening bracket may be followed by more on its line
        path.write_text(f"{text[:at]}\n{lines.rstrip()}{'' if text[at] == chr(10) else chr(10)}{text[at:]}")
    else:
        path.write_text(text[:at] + lines + "\n" + text[at:])
