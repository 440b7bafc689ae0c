"""`understudy models`, `understudy methods`, `understudy datasets`: what there is."""

from __future__ import annotations

import os
import re

from understudy.cli.flags import DataRoot
from understudy.cli.show import print_rows
from understudy.errors import UnderstudyError, nearest
from understudy.files import path_of


def models(pattern: str | None = None, /) -> None:
    """List the families of models, or timm's models by name.

    Parameters
    ----------
    pattern
        Part of a timm model's name, or a pattern with *.
    """
    if pattern is None:
        from understudy.models import FAMILIES

        rows = [tuple(re.split(r" {2,}", line, maxsplit=1)) for line in FAMILIES.values()]
        print_rows([*rows, ("pkg.mod:fn", "a function of yours: fn(num_classes=..., option=...)")])
        return
    import timm

    names = timm.list_models(pattern if "*" in pattern else f"*{pattern}*")
    if not names:
        raise UnderstudyError(f"timm has no model like {pattern!r}{nearest(pattern, timm.list_models())}")
    print("\n".join(f"timm:{name}" for name in names))


def methods() -> None:
    """List what a student can learn from a teacher. Methods add up, as in --method crd+kd."""
    from understudy.objectives import OBJECTIVES

    rows = ((name, f"{objective.weight:g}", objective.summary) for name, objective in OBJECTIVES.items())
    print_rows(rows, ("--method", "weight", "minimizes"))


def datasets(*, data_root: DataRoot = None) -> None:
    """List the named data sets, and which of them are here."""
    from understudy.data import NAMED, group_of

    named = os.environ.get("UNDERSTUDY_DATA") or "data" if data_root is None else data_root
    home = path_of(named, "the data root")
    rows = []
    for name, named in NAMED.items():
        here = named.is_in(home, name)
        counts = [f"{n:,}" for n in named.examples] + ["-"] * (3 - len(named.examples))
        rows.append((name, named.classes or "-", *counts, "yes" if here else "", group_of(name), named.about))
    print_rows(rows, ("name", "classes", "train", "test", "validation", "here", "VTAB", "content"))
