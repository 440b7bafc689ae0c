"""`label`: teachers' answers to augmented views of the samples, kept on the disk for any number of students."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from understudy.config.keywords import LabelKeywords
from understudy.config.recipe import DistillRecipe
from understudy.config.verbs import LabelConfig
from understudy.config.yaml import checked
from understudy.errors import UnderstudyError
from understudy.files import new_folder, path_of
from understudy.pipeline.device import first_process
from understudy.pipeline.label import Labeling, Labels, describe
from understudy.pipeline.label import label as write_targets
from understudy.pipeline.run_data import Overrides, require
from understudy.runs.collection import RunCollection
from understudy.runs.lock import locked
from understudy.runs.run import Run, new_run_path
from understudy.runs.targets import TargetsFolder
from understudy.verbs.arguments import Data, Model, Plan, configure, listed
from understudy.verbs.distill import objects

_NOT_OF_DISTILL = {"kind", "views", "embedding", "features", "int8", "logits", "members"}


def label(
    data: Data,
    teacher: Model | Sequence[Model],
    *,
    out: str | Path | None = None,
    part: str = "",
    merge: Sequence[str | Path] = (),
    **options: Unpack[LabelKeywords],
) -> TargetsFolder:
    """Keep teachers' answers to augmented views of the samples, for any number of students.

    Called again with the same arguments it continues where it was stopped.

    Args:
        data: whatever `open_source` opens; labels are not needed.
        teacher: as for `distill`.
        out: the folder; a new one under runs/ by default.
        part: "3/16" labels the third of 16 parts.
        merge: folders of other parts, whose answers are taken over.
        **options: fields of `LabelConfig`.

    Returns:
        The folder, for `targets=` of `distill` and `compare`.

    Raises:
        UnderstudyError: a wrong option; a folder of other targets; data that has changed since they were begun.

    >>> import understudy
    >>> teacher = understudy.train("digits", "mlp:16x1", epochs=1, run=tmp / "teacher")  # doctest: +ELLIPSIS
    train  ...
    >>> targets = understudy.label("digits", teacher.path, views=2, out=tmp / "targets")  # doctest: +ELLIPSIS
    /...
    >>> done = understudy.distill("digits", None, "mlp:8x1", targets=targets.path, epochs=1,
    ...                           run=tmp / "student")  # doctest: +ELLIPSIS
    learns from ...
    >>> sorted(done.models)
    ['alone-0', 'distilled-0']
    """
    config = configure(LabelConfig, options, data=data, teacher=listed(teacher))
    return start(config, objects(data, teacher, "", None), out, part, merge)


def plan(config: LabelConfig, overrides: Overrides) -> Plan:
    """No recipes, but what the targets will take."""
    job = _job(config, overrides, Path("targets"))
    return Plan({}, overrides, (describe(job.manifest(), Path("targets")),))


def start(
    config: LabelConfig, overrides: Overrides, out: str | Path | None, part: str = "", merge: Sequence[str | Path] = ()
) -> TargetsFolder:
    """Label in a folder, or continue there."""
    folder = new_run_path("label", config.data) if out is None else new_folder(out, "the --out folder")
    if Run(folder).exists or RunCollection(folder).exists:
        raise UnderstudyError(f"{folder} holds a run; choose another --out folder")
    return _run(_job(config, overrides, folder, parse_part(part), merge))


def resume(folder: TargetsFolder, overrides: Overrides) -> TargetsFolder:
    """Label what is missing in a folder."""
    config = checked(LabelConfig, folder.manifest.config, str(folder.path))
    return _run(_job(folder.located(config), overrides, folder.path))


def parse_part(text: str) -> tuple[int, int]:
    """`"3/16"` -> (3, 16); the whole for "".

    Raises:
        UnderstudyError: it is no such part.

    >>> parse_part("3/16")
    (3, 16)
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text or "1/1")
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UnderstudyError(f"cannot parse part {text!r}: write NUMBER/PARTS, as in 3/16")
    return int(match[1]), int(match[2])


def _job(
    config: LabelConfig, overrides: Overrides, folder: Path, part: tuple[int, int] = (1, 1),
    merge: Sequence[str | Path] = (),
) -> Labeling:  # fmt: skip
    require(config, overrides)
    values: dict[str, Any] = config.model_dump(exclude=_NOT_OF_DISTILL) | {"steps": 1}
    recipe = checked(DistillRecipe, values, "label")
    merged = [path_of(one, "the folder to merge") for one in merge]
    return Labeling(Labels(recipe, overrides), config, TargetsFolder(folder), part, merged)


def _run(job: Labeling) -> TargetsFolder:
    if not first_process():
        write_targets(job)
        return job.folder
    with locked(job.folder.path):
        write_targets(job)
    return job.folder
