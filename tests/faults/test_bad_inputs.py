"""A user's mistake is one sentence: code 2, one line on stderr, nothing left behind, at once.

The tables are in `bad_inputs/`. Every twelfth row of each runs every day, all of them in the campaign.
"""

from __future__ import annotations

import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_inputs import numbers, paths, python, recipes, words
from PIL import Image
from safetensors.torch import load_file, save_file

import understudy
from understudy.cli.app import main
from understudy.errors import UnderstudyError

SECONDS = 5  # of this process, as the machine may be busy
SAMPLE = 12
WORDS = 300  # characters of the sentence that are not the user's
LINE = 700

LINES = (
    numbers.OF_TRAINING, numbers.OF_OTHER_VERBS, numbers.TEXTS_WITH_NUMBERS, paths.OF_RESULTS, paths.OF_INPUTS,
    words.OF_VERBS, words.OF_MODELS, words.OF_OBJECTIVES, words.OF_MACHINES,
)  # fmt: skip


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the command lines name: a trained run, one with NaN in its weights, pictures and other files."""
    folder = tmp_path_factory.mktemp("in")
    run = understudy.train("digits", "mlp:8x1", epochs=1, run=folder / "run").path
    weights = run / "models" / "model-0.safetensors"
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    save_file({name: x * float("nan") for name, x in load_file(weights).items()}, folder / "nan.safetensors", metadata)
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        place = folder / "photos" / ("cat", "dog")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.png")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("hello\n")
    (folder / "loop").symlink_to(folder / "loop")
    return {
        "run": run, "nan": folder / "nan.safetensors", "photos": folder / "photos", "empty": folder / "empty",
        "photo": folder / "photos" / "cat" / "0.png", "text": folder / "text.txt", "loop": folder / "loop",
        "nowhere": folder / "nowhere",
    }  # fmt: skip


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[Sequence[str]], str]:
    """Run a command line that must be refused; returns what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(argv: Sequence[str]) -> str:
        before, start = everything(tmp_path), time.process_time()
        code = main(argv)
        seconds = time.process_time() - start
        said = capfd.readouterr().err
        assert code == 2, said
        one_sentence(said.removeprefix("error: "), argv)
        assert said.startswith("error: ")
        assert everything(tmp_path) == before, "something was left behind"
        assert seconds < SECONDS
        return said

    return run


@pytest.fixture(autouse=True)
def _at_most() -> Iterator[None]:
    """End a case that would wait forever."""

    def end(*_: object) -> None:
        raise TimeoutError("nothing was said for minutes")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(20 * SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def one_sentence(said: str, typed: Sequence[str]) -> None:
    """Check the form of a message."""
    assert said.strip()
    assert said.count("\n") <= 1, said
    assert said.rstrip("\n").isprintable(), ascii(said)
    assert len(said) < LINE, said
    own = re.sub(r"x{50}\S*", "", said)
    for word in sorted(typed, key=len, reverse=True):
        own = own.replace(word, "") if len(word) > 3 else own
    assert len(own) < WORDS, own


def rows(table: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The rows as parameters: most belong to the campaign."""
    marks = pytest.mark.campaign
    return [pytest.param(*row, marks=() if n % SAMPLE == 0 else marks, id=_id(row[0])) for n, row in enumerate(table)]


def _id(value: str | bytes) -> str:
    text = ascii(value).strip("b'\"")
    return text if len(text) < 90 else f"{text[:80]}...{len(text)}"


def typed(line: str, inputs: dict[str, Path]) -> list[str]:
    """The words of a command line, with the paths of inputs for their names."""
    return [re.sub(r"<(\w+)>", lambda match: str(inputs[match[1]]), word) for word in shlex.split(line)]


@pytest.mark.parametrize(("line", "says"), [row for table in LINES for row in rows(table)])
def test_a_command_line(line: str, says: str, inputs: dict[str, Path], refused: Callable[..., str]) -> None:
    assert re.search(says, refused(typed(line, inputs)))


@pytest.mark.parametrize(("text", "says"), rows(recipes.NOT_YAML + recipes.WRONG_VALUES))
def test_a_recipe_file(text: str | bytes, says: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.search(says, refused(["train", "--config", "r.yaml"]))


@pytest.mark.parametrize(("name", "call", "says"), rows(python.CALLS))
def test_a_call_from_python(
    name: str, call: Callable[[Path], object], says: str, inputs: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    with pytest.raises(UnderstudyError, match=says) as raised:
        call(inputs["run"])
    one_sentence(" ".join(str(raised.value).split()), [str(inputs["run"])])
    assert everything(tmp_path) == []
    assert time.process_time() - start < SECONDS
