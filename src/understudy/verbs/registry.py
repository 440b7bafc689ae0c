"""The verbs that train, by the `kind` of their configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from understudy.config.options import Options
from understudy.config.verbs import parse_config
from understudy.config.yaml import checked, read_yaml
from understudy.files import path_of
from understudy.models import names_model
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.run_data import Overrides
from understudy.runs.targets import Results
from understudy.verbs.arguments import Place, Plan, place

_MODULES = {
    "train": "train",
    "distill": "distill",
    "compare": "distill",
    "pretrain": "pretrain",
    "transfer": "transfer",
    "suite": "suite",
    "compress": "compress",
    "label": "label",
    "specialists": "specialists",
    "speech-train": "speech",
    "speech-distill": "speech",
}


Config = Options | Mapping[str, Any] | str | Path


def planner(kind: str) -> Callable[[Any, Overrides], Plan]:
    """The function that resolves a verb's configuration into recipes."""
    return import_module(f"understudy.verbs.{_MODULES[kind]}").plan


def starter(kind: str) -> Callable[[Any, Overrides, Place], Results]:
    """The function that does what a verb's configuration says."""
    return import_module(f"understudy.verbs.{_MODULES[kind]}").start


def read_config(config: Config) -> Options:
    """A verb's configuration from its values, or from a YAML file; `kind` names the verb."""
    if isinstance(config, Options):
        return config
    values, where = (dict(config), "the configuration") if isinstance(config, Mapping) else (
        read_yaml(path_of(config, "the configuration")), str(config)
    )  # fmt: skip
    return checked(parse_config(values, where), values, where)


def run_config(config: Config, *, run: str | Path | None = None, overwrite: bool = False) -> Results:
    """Do what a configuration says.

    Args:
        config: a recipe; values with a `kind`, as {"kind": "train", "data": "digits", "model": "mlp:32x1", "lr": 0.01};
            or a YAML file of such, of which functions (pkg.mod:fn) are not imported.
        run: the folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.

    Raises:
        UnderstudyError: whatever the verb raises.
    """
    options = read_config(config)
    overrides = Overrides(trust_code=not isinstance(config, (str, Path)))
    return starter(getattr(options, "kind", ""))(options, overrides, place(run, overwrite))


def dry_run(config: Config) -> dict[str, dict[str, str]]:
    """What `run_config` would do: for each run its samples, steps, parameters, FLOPs, and the expected time.

    Few steps are timed; nothing is written.

    >>> facts = dry_run({"kind": "train", "data": "digits", "model": "mlp:32x1", "epochs": 1})
    >>> facts["train"]["training samples"], facts["train"]["parameters"]
    ('1,438', '2,410')
    """
    options = read_config(config)
    plan = planner(getattr(options, "kind", ""))(options, Overrides(trust_code=not isinstance(config, (str, Path))))
    return measured(plan)


def measured(plan: Plan) -> dict[str, dict[str, str]]:
    """The facts of a dry run for each run of a plan whose teachers, if any, exist already."""
    from understudy.pipeline.dry_run import dry_run as measure

    return {
        name: measure(pipeline_of(recipe, plan.overrides))
        for name, recipe in plan.recipes.items()
        if all(_is_there(teacher) for teacher in getattr(recipe, "teacher", ()))
    }


def _is_there(teacher: str) -> bool:
    return names_model(teacher) or path_of(teacher, "the teacher").exists()
