"""Python, YAML and the command line are three doors to one schema: same verbs, names and defaults."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

import understudy
from understudy.cli import main
from understudy.cli.training import training_command
from understudy.config import keywords
from understudy.config.options import NESTED, Options, flat_fields
from understudy.config.verbs import VERBS
from understudy.config.yaml import checked, to_yaml
from understudy.errors import UnderstudyError
from understudy.verbs import speech
from understudy.verbs.registry import dry_run, read_config, run_config

FUNCTIONS = {
    "train": understudy.train,
    "distill": understudy.distill,
    "compare": understudy.compare,
    "transfer": understudy.transfer,
    "suite": understudy.suite,
    "pretrain": understudy.pretrain,
    "compress": understudy.compress,
    "label": understudy.label,
    "specialists": understudy.specialists,
    "speech-train": speech.train,
    "speech-distill": speech.distill,
}
PLACE = {"run", "overwrite", "out", "part", "merge"}
# what Python takes in more forms than YAML: names or objects
WIDER = {
    "optimizer": Literal["sgd", "adamw"] | Mapping[str, Any],
    "pair": Sequence[str] | Mapping[str, str],
    "targets": str | Path | None,
    "method": str | Sequence[str],
    "format": str | Sequence[str],
}


@pytest.fixture(params=VERBS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def typed_dict(kind: str) -> Any:
    """The keywords that a verb's function unpacks."""
    hints = inspect.signature(FUNCTIONS[kind]).parameters["options"].annotation
    return getattr(keywords, hints.removeprefix("Unpack[").removesuffix("]"))


def arguments(kind: str) -> set[str]:
    """What a verb's function takes as arguments of their own."""
    parameters = inspect.signature(FUNCTIONS[kind]).parameters.values()
    return {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} - PLACE


def field_of(schema: type[Options], path: tuple[str] | tuple[str, str]) -> tuple[type[Options], str]:
    return (NESTED[path[0]], path[1]) if len(path) > 1 else (schema, path[0])


def as_argument(hint: Any) -> Any:
    """A field's type as a caller may give it: any sequence for a tuple."""
    if get_origin(hint) is tuple:
        return Sequence[get_args(hint)[0]]
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(as_argument(one) for one in get_args(hint))]  # noqa: UP007  (made from values)
    return hint


def test_every_verb_that_trains_has_three_doors() -> None:
    assert FUNCTIONS.keys() == VERBS.keys()


def test_python_takes_what_the_schema_has(kind: str) -> None:
    """No option is missing, and none is more: those that a verb fixes are refused by its schema."""
    schema, hints = VERBS[kind], get_type_hints(typed_dict(kind))
    accepted = set(hints) - {"augmentation"} | arguments(kind)
    assert accepted - schema.fixed == set(flat_fields(schema)) - schema.fixed
    for name, path in flat_fields(schema).items():
        if name in hints:
            owner, leaf = field_of(schema, path)
            expected = WIDER.get(name, as_argument(get_type_hints(owner)[leaf]))
            assert hints[name] == expected, name


def test_keywords_say_what_the_schema_says() -> None:
    """An editor shows the same line of help as `--help`."""
    source = ast.parse(Path(inspect.getfile(keywords)).read_text(encoding="utf-8"))
    shown: dict[str, set[str]] = {}
    for cls in (node for node in source.body if isinstance(node, ast.ClassDef)):
        for field, text in zip(cls.body, cls.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                shown.setdefault(field.target.id, set()).add(str(text.value.value))
    known: dict[str, set[str]] = {"augmentation": shown["augmentation"]}
    for schema in VERBS.values():
        for name, path in flat_fields(schema).items():
            owner, leaf = field_of(schema, path)
            for cls in owner.__mro__:
                if issubclass(cls, Options) and leaf in cls.model_fields:
                    known.setdefault(name, set()).add(str(cls.model_fields[leaf].description))
    for name, texts in shown.items():
        assert texts <= known[name], name


def test_the_command_line_takes_what_the_schema_has(kind: str) -> None:
    schema = VERBS[kind]
    parameters = inspect.signature(training_command(kind)).parameters
    place = {"config", "run", "overwrite", "dry_run"}
    assert set(parameters) - place == set(flat_fields(schema))
    for name, path in flat_fields(schema).items():
        owner, leaf = field_of(schema, path)
        if name != "data":
            default = owner.model_fields[leaf].default
            expected = tuple(map(str, default)) if isinstance(default, tuple) else default
            assert parameters[name].default == expected, name


def test_every_option_has_help_and_a_checked_default(kind: str) -> None:
    schema = VERBS[kind]
    for path in flat_fields(schema).values():
        owner, leaf = field_of(schema, path)
        field = owner.model_fields[leaf]
        assert field.description, leaf
        assert "\n" not in field.description
        assert owner.model_validate({leaf: field.default}) if leaf not in schema.fixed and leaf != "kind" else True


def test_yaml_reads_what_it_writes(kind: str) -> None:
    """Every field, and of a configuration those that were set."""
    schema = VERBS[kind]
    config = checked(schema, {"data": ["digits"] if kind == "suite" else "digits"})
    values = yaml.safe_load(to_yaml(config))
    values = {name: value for name, value in values.items() if name not in schema.fixed}
    assert checked(schema, values).model_dump() == config.model_dump()
    assert next(iter(values)) == "kind"


def test_flags_override_a_file_and_defaults_do_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """For every verb: here a transfer, whose dry run resolves the rule."""
    recipe = tmp_path / "t.yaml"
    recipe.write_text(
        "kind: transfer\nrule: bit\ndata: digits\nbackbone: cnn:4\nfrom_scratch: true\nsteps: 7\nseed: 3\nlr: 0.5\n"
    )
    assert main(["transfer", "--config", str(recipe), "--dry-run", "--crop-size", "8", "--seed", "5"]) == 0
    shown = capfd.readouterr().out
    text, _, measured = shown.partition("\n\n")
    values = yaml.safe_load(text)
    assert "training samples" in measured
    assert (values["steps"], values["seed"], values["augmentation"]["crop_size"]) == (7, 5, 8)
    assert values["optimizer"]["lr"] == 0.5
    assert values["optimizer"]["name"] == "sgd", "the rule's"
    assert dry_run(recipe)["transfer"]["steps"] == "7"


def test_the_three_doors_resolve_to_one_recipe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same run from Python, from a mapping, from a file and from flags."""
    values = {"data": "digits", "model": "mlp:8", "epochs": 1, "lr": 0.01, "optimizer": "sgd", "translate": 1}
    one = understudy.train("digits", "mlp:8", epochs=1, lr=0.01, optimizer="sgd", translate=1, run=tmp_path / "a")
    two = run_config({"kind": "train", **values}, run=tmp_path / "b")
    (tmp_path / "r.yaml").write_text(to_yaml(one.recipe))
    assert main(["train", "--config", str(tmp_path / "r.yaml"), "--run", str(tmp_path / "c")]) == 0
    words = ["--model", "mlp:8", "--epochs", "1", "--lr", "0.01", "--optimizer", "sgd", "--translate", "1"]
    assert main(["train", "digits", *words, "--run", str(tmp_path / "d")]) == 0
    recipes = [understudy.Run(tmp_path / name).recipe for name in "abcd"]
    assert all(recipe == one.recipe for recipe in recipes)
    files = [(tmp_path / name / "models" / "model-0.safetensors").read_bytes() for name in "abcd"]
    assert len(set(files)) == 1
    assert isinstance(two, understudy.Run)


def test_what_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="needs a kind: one of train, distill"):
        read_config({"data": "digits"})
    with pytest.raises(UnderstudyError, match="epochs cannot be set here"):
        read_config({"kind": "transfer", "data": "digits", "epochs": 3})
    with pytest.raises(UnderstudyError, match=r"unknown key 'optimizer.lrr'; did you mean 'lr'\?"):
        read_config({"kind": "train", "optimizer": {"lrr": 1}})


def test_public_names_stay_what_they_are() -> None:
    """A function at the first look and at the second, also after every module was imported."""
    import importlib
    import pkgutil

    first = {name: getattr(understudy, name) for name in understudy.__all__}
    for module in pkgutil.walk_packages(understudy.__path__, "understudy."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    second = {name: getattr(understudy, name) for name in understudy.__all__}
    assert first == second
    for name in set(understudy.__all__) - {"__version__"}:
        assert callable(second[name]), name


def test_signatures_say_what_they_take() -> None:
    """No verb takes options of any name and type."""
    for name in set(understudy.__all__) - {"__version__", "Run", "RunCollection"}:
        for parameter in inspect.signature(getattr(understudy, name)).parameters.values():
            assert "Any" not in str(parameter.annotation).replace("Mapping[str, Any]", ""), (name, parameter)
