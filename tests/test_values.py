"""Numbers, paths and texts as users write them: bounded and checked in one place each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from understudy.config.options import NESTED, Options
from understudy.config.recipe import RECIPES, TrainRecipe
from understudy.config.text_options import check_options, parse_options
from understudy.config.verbs import VERBS
from understudy.config.yaml import read_scalar
from understudy.errors import UnderstudyError, one_line
from understudy.files import leaving_no_empty_folder, new_folder, path_of
from understudy.objectives import OBJECTIVES
from understudy.objectives.base import check_number
from understudy.pipeline.loss import parse_term

SCHEMAS = {**VERBS, **RECIPES, **NESTED}


def parts(hint: Any) -> Iterator[Any]:
    """A type, and those that it is made of."""
    yield hint
    for part in get_args(hint):
        yield from parts(part)


def numbers() -> Iterator[tuple[type[Options], str, str]]:
    """Each numeric field of each schema, with what is known of its bounds."""
    for schema in SCHEMAS.values():
        for name, field in schema.model_fields.items():
            hints = [*parts(field.annotation)]
            if str not in hints and (int in hints or float in hints):  # else a text, which is parsed
                yield schema, name, repr([*field.metadata, *hints])


@pytest.mark.parametrize(("schema", "name", "bounds"), [*numbers()], ids=lambda x: getattr(x, "__name__", str(x))[:30])
def test_every_number_is_bounded(schema: type[Options], name: str, bounds: str) -> None:
    assert "Ge(" in bounds or "Gt(" in bounds
    assert "Le(" in bounds or "Lt(" in bounds
    assert "_no_truth" in bounds


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_every_float_is_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        TrainRecipe(mixup=value)


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "a\x1bb", "x" * 256, "a/" * 3000])
@pytest.mark.parametrize("name", ["data", "model", "data_root", "modality"])
def test_no_text_is_absurd(name: str, text: str) -> None:
    with pytest.raises(ValidationError, match=r"control character|too long"):
        TrainRecipe.model_validate({name: text})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (None, "must be a path, not NoneType"),
        (3, "must be a path, not int"),
        (b"a", "must be a path, not bytes"),
        ("a\0b", "control character"),
        ("x" * 256, "too long"),
        ("~nobody-is-called-so/a", "no user 'nobody-is-called-so'; write ./~nobody-is-called-so/a"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_paths_that_cannot_be(text: Any, says: str) -> None:
    with pytest.raises(UnderstudyError, match=says):
        path_of(text, "the photos")


def test_paths_that_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert path_of("~/a", "it") == tmp_path / "a"
    assert path_of("./~nobody-is-called-so/a", "it") == Path.cwd() / "~nobody-is-called-so/a"
    assert path_of(os.fsdecode(b"caf\xe9"), "it") == Path("caf\udce9")
    assert path_of("été " * 30, "it").name == "été " * 30


def test_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert new_folder(tmp_path / "a" / "b", "it") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    for place in ("file", "file/a/b", "loop", "loop/a"):
        with pytest.raises(UnderstudyError, match="is not a folder; choose another place"):
            new_folder(tmp_path / place, "it")


def _makes_and_fails(folder: Path, name: str) -> None:
    with leaving_no_empty_folder(folder):
        folder.mkdir(parents=True)
        if name:
            (folder / name).write_text("")
        raise UnderstudyError("a mistake")


def test_a_mistake_leaves_no_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    made = tmp_path / "there" / "a" / "b"
    for name in ("", "kept"):
        with pytest.raises(UnderstudyError):
            _makes_and_fails(made, name)
        assert made.exists() == bool(name)
        assert (tmp_path / "there").exists()


def test_a_message_is_one_printable_line() -> None:
    error = UnderstudyError("no file a\nb\x1b[31m" + "x" * 5000)
    assert str(error) == "no file a b\\x1b[31m" + "x" * (150 - len("b\\x1b[31m")) + "..." + "x" * 50
    assert one_line("caf\udce9") == "caf\\udce9"


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 1e-3), ("-2.5E+3", -2500.0), ("yes", True), ("", None), ("gn+ws", "gn+ws"), ("1e", "1e")],
)
def test_scalars(text: str, value: object) -> None:
    assert read_scalar(text) == value
    assert type(read_scalar(text)) is type(value)


@pytest.mark.parametrize("text", ["[1]", "{a: 1}", "[", "!!python/name:os.system", "2024-01-01", "9" * 5000, "*a"])
def test_no_scalars(text: str) -> None:
    with pytest.raises(ValueError, match="is not a single value"):
        read_scalar(text)


def test_options_as_text() -> None:
    assert parse_options("", "&", "a") == {}
    wrong = ("a", "write a=VALUE"), ("=3", "NAME=VALUE"), ("a=1&a=2", "keep one"), ("a=[", "single value")
    for listed, says in wrong:
        with pytest.raises(UnderstudyError, match=says):
            parse_options(listed, "&", "it")


def test_options_are_of_the_type_of_the_parameter() -> None:
    check_options({"a": 1, "b": None}, {"a": float, "b": int | None}, "it")
    for value, says in ((True, "a finite number"), (float("nan"), "a finite number"), ("x", "it is 'x'")):
        with pytest.raises(UnderstudyError, match=f"it: a must be .*{says}"):
            check_options({"a": value}, {"a": float}, "it")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_takes_its_options_from_text(name: str) -> None:
    assert parse_term(f"{name}:weight=0.5").weight == 0.5
    if name != "standardized":
        with pytest.raises(UnderstudyError, match=f"{name} has no option 'ids_of_samples'"):
            parse_term(f"{name}:ids_of_samples=3")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e7])
def test_numbers_of_objectives(value: float) -> None:
    with pytest.raises(ValueError, match="gamma must be at least 0 and at most 1,000,000; it is"):
        check_number("gamma", value)
    with pytest.raises(ValueError, match="a whole number"):
        check_number("order", 1.5, whole=True)
