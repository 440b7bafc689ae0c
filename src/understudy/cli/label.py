"""`understudy label`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.cli.show import show
from understudy.cli.training import print_plan, training_command
from understudy.config.options import Options

_PLACE = {
    "config": (str | None, None, "Options from a YAML file; flags override it."),
    "out": (str | None, None, "Folder of the targets; default: runs/label-NAME-1, -2, ..."),
    "part": (str, "", "Label one part of all, as in 3/16, on each of several machines."),
    "merge": (tuple[str, ...], (), "Folders of other parts, whose answers are taken over."),
    "dry_run": (bool, False, "Print what the targets will take; label nothing."),
}


def _carry_out(config: Options, place: Mapping[str, Any], *, trust_code: bool) -> int:
    from understudy.config.verbs import LabelConfig
    from understudy.pipeline.run_data import Overrides
    from understudy.verbs.label import plan, start

    assert isinstance(config, LabelConfig)
    overrides = Overrides(trust_code=trust_code)
    if place["dry_run"]:
        return print_plan(plan(config, overrides))
    return show(start(config, overrides, place["out"], place["part"], place["merge"]))


label = training_command("label", _PLACE, _carry_out)
