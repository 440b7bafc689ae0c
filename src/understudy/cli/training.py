"""What the commands that train share: from flags and a YAML file to a configuration, its dry run, or its results."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from inspect import Parameter as Argument
from inspect import Signature
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from understudy.cli.schema_flags import flags_of, positional_of
from understudy.cli.show import print_rows, show
from understudy.config.options import NESTED, Options, nest
from understudy.config.verbs import VERBS
from understudy.config.yaml import checked, read_yaml, to_yaml, updated
from understudy.errors import UnderstudyError
from understudy.escaping import printable
from understudy.files import path_of

if TYPE_CHECKING:
    from understudy.verbs.arguments import Plan

_TYPED = "the command line"
_RUN = Parameter(group=Group("Run", sort_key=2))
_PLACE = {
    "config": (str | None, None, "Options from a YAML file; flags override it."),
    "run": (str | None, None, "Folder of the results; default: runs/VERB-NAME-1, -2, ..."),
    "overwrite": (bool, False, "Replace the results in the folder, once the new run has a checkpoint."),
    "dry_run": (bool, False, "Print the resolved recipes, the sizes and the expected time; train nothing."),
}


def training_command(
    kind: str, places: Mapping[str, tuple[Any, Any, str]] = _PLACE, do: Callable[..., int] | None = None
) -> Callable[..., int]:
    """The command of a verb that trains: its flags are derived from its schema.

    Args:
        places: type, default and help of the flags that are not in the schema; among them `config`.
        do: (configuration, values of `places`, trust_code) -> exit code; `carry_out` where None.
    """
    schema, do = VERBS[kind], do or carry_out

    def command(*data: str, **flags: Any) -> int:  # of the flags, those that were typed
        place = {name: flags.pop(name, default) for name, (_, default, _) in places.items()}
        config = place["config"]
        values: dict[str, Any] = {} if config is None else read_yaml(path_of(config, "the --config file"))
        typed = nest(schema, flags | _positional(schema, data))
        try:
            options = checked(schema, updated(values, typed), str(config or _TYPED))
        except UnderstudyError as error:
            raise UnderstudyError(re.sub(rf"^{_TYPED}: (\w+)(?:\.(\w+))?[.\w]*: ", _flag, str(error))) from None
        return do(options, place, trust_code=_typed_code(options, typed))

    place = [
        Argument(name, Argument.KEYWORD_ONLY, default=default,
                 annotation=Annotated[hint, _RUN, Parameter(help=text, negative=())])
        for name, (hint, default, text) in places.items()
    ]  # fmt: skip
    arguments = [positional_of(schema), *flags_of(schema), *place]
    command.__name__ = kind
    command.__doc__ = None  # the help text is given where the command is registered
    command.__signature__ = Signature(arguments, return_annotation=int)  # type: ignore[attr-defined]
    command.__annotations__ = {argument.name: argument.annotation for argument in arguments}
    return command


def _flag(match: re.Match[str]) -> str:
    """The flag of an option that is at `optimizer.lr`, `optimizer.name` or `shots.0`."""
    name = match[2] if match[1] in NESTED and match[2] != "name" else match[1]
    return f"--{name.replace('_', '-')}: "


def carry_out(config: Options, place: Mapping[str, Any], *, trust_code: bool) -> int:
    """Do what a configuration says, or print what that would be. Returns the exit code."""
    from understudy.pipeline.run_data import Overrides
    from understudy.verbs.arguments import place as place_of
    from understudy.verbs.registry import planner, starter

    kind = str(getattr(config, "kind", ""))
    overrides = Overrides(trust_code=trust_code)
    where = place_of(place["run"], place["overwrite"], ("understudy", *sys.argv[1:]))
    if not place["dry_run"]:
        return show(starter(kind)(config, overrides, where))
    return print_plan(planner(kind)(config, overrides))


def print_plan(plan: Plan) -> int:
    """Print what a verb would do. Returns the exit code."""
    from understudy.verbs.registry import measured

    print("".join(f"# {printable(note)}\n" for note in plan.notes), end="")
    for name, recipe in plan.recipes.items():
        print(f"# {printable(name)}\n" if len(plan.recipes) > 1 else "", end="")
        print(to_yaml(recipe))
    for name, facts in measured(plan).items():
        print_rows([(name, "")] if len(plan.recipes) > 1 else [])
        print_rows(facts.items())
    return 0


def _positional(schema: type[Options], data: tuple[str, ...]) -> dict[str, Any]:
    several = positional_of(schema).kind is Argument.VAR_POSITIONAL
    return {"data": data if several else data[0]} if any(data) else {}


def _typed_code(config: Options, typed: Mapping[str, Any]) -> bool:
    """Whether code that the configuration names (pkg.mod:fn) was all typed: a file cannot have a function imported."""
    from understudy.models import is_code

    def code(values: Mapping[str, Any]) -> set[str]:
        names = [values.get("model"), values.get("student")]
        for key in ("teacher", "backbone"):
            value = values.get(key) or ()
            names += [value] if isinstance(value, str) else value
        return {name for name in names if isinstance(name, str) and is_code(name)}

    return bool(code(typed)) and code(config.model_dump()) <= code(typed)
