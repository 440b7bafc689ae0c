"""Flags derived from a verb's schema."""

from __future__ import annotations

from inspect import Parameter as Argument
from typing import Annotated, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from understudy.cli.flags import default_as_typed, whole_number
from understudy.config.options import NESTED, Options, flat_fields

_ORDER = ("Run", "Model", "Training", "Data", "Optimizer", "Augmentation", "Machine")  # after what is a verb's own


def flags_of(schema: type[Options], positional: str = "data") -> list[Argument]:
    """A keyword argument for each option of a schema, with its type, its default and its help."""
    flags = []
    for name, path in flat_fields(schema).items():
        if name == positional:
            continue
        owner, leaf = (NESTED[path[0]], path[1]) if len(path) > 1 else (schema, path[0])
        field, hint = owner.model_fields[leaf], get_type_hints(owner)[leaf]
        default = field.default
        several = get_origin(hint) is tuple
        if several:  # the schema splits and converts
            hint, default = tuple[str, ...], tuple(map(str, default))
        hidden = path[0] in schema.derived or leaf in owner.derived
        flag = f"--{name.replace('_', '-')}"
        parameter = Parameter(
            name=flag,
            alias=f"{flag}s" if several and not flag.endswith("s") else None,
            help=field.description,
            group=_group(_heading(owner, leaf)),
            show_default=False if hidden else default_as_typed,
            negative=() if field.default is False else None,
            converter=whole_number if int in (hint, *get_args(hint)) else None,
            show=True,
        )
        flags.append(Argument(name, Argument.KEYWORD_ONLY, default=default, annotation=Annotated[hint, parameter]))
    return flags


def positional_of(schema: type[Options]) -> Argument:
    """The data, one or several, as the verb's positional argument."""
    field = schema.model_fields["data"]
    several = get_origin(get_type_hints(schema)["data"]) is tuple
    kind = Argument.VAR_POSITIONAL if several else Argument.POSITIONAL_ONLY
    annotation = Annotated[str, Parameter(help=field.description)]
    default = Argument.empty if several else ""
    return Argument("data", kind, default=default, annotation=annotation)


def _heading(owner: type[Options], name: str) -> str:
    """The heading of the class that declares a field first."""
    return next(cls for cls in reversed(owner.__mro__) if name in vars(cls).get("__annotations__", {})).heading


def _group(heading: str) -> Group:
    return Group(heading, sort_key=_ORDER.index(heading) + 2 if heading in _ORDER else 1)
