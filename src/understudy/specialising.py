"""`specialists`: classes grouped by what a generalist confuses, and a specialist trained for each group."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save

from understudy.api import ensure_run, in_groups, name_of
from understudy.data import Source
from understudy.data.drawing import log_oversampling
from understudy.errors import UnderstudyError
from understudy.evaluation.covariance import covariance_of
from understudy.evaluation.grouping import Columns, confusion_held, group_classes
from understudy.files import sha256, write_whole
from understudy.machine import device_of
from understudy.material import Given, Material, prepare_data
from understudy.models import fold, load_network
from understudy.panel_report import report_on
from understudy.panels import Manifest, PanelFolder
from understudy.performing import workers_of
from understudy.preparing import weights_of
from understudy.recipe import SpecialistRecipe, TrainRecipe
from understudy.recipe_text import checked
from understudy.specialist import correction
from understudy.teachers import check_classes
from understudy.training.jobs import run_jobs

_FIXED = (
    "model",
    "group",
    "seeds",
    "class_bias",
    "class_priors",
    "only_classes",
    "omit_classes",
    "freeze",
    "zero_head",
    "calibrate",
)


def specialists(
    data: object,
    generalist: str | Path,
    *,
    clusters: int = 5,
    group_size: int | None = None,
    columns: Columns = "correlation",
    top_n: int = 1,
    only: int | None = None,
    parallel: int = 1,
    student: Sequence[str | Path] = (),
    run: str | Path | None = None,
    overwrite: bool = False,
    command: Sequence[str] = (),
    **fields: Any,
) -> PanelFolder:
    """Group the classes that a generalist confuses, and train a specialist for each group (Hinton et al. 2015).

    What the folder holds already is kept: specialists that are trained stay, one that was stopped goes on.

    Args:
        data: as for `train`; labelled.
        generalist: a run folder of one network, or a weights file.
        clusters: how many groups.
        group_size: take each cluster's nearest `group_size` classes, so that groups may overlap.
        columns: what is clustered; "covariance" is as in the paper, see `group_classes`.
        top_n: how many of the generalist's most probable classes call specialists.
        only: train this specialist alone, from 0; another machine trains the others.
        parallel: how many to train at a time.
        student: run folders or weights files of networks distilled from the panel, to show on its page.
        run: the folder; specialists/ beside the generalist's recipe where unset.
        overwrite: make everything again.
        command: the words of the command line, for the pages.
        **fields: any field of `SpecialistRecipe`, as `epochs` and `lr`.

    Returns:
        The folder; it has a page once all specialists are trained.

    Raises:
        UnderstudyError: numbers that do not fit the classes, a generalist of other classes, or another panel in the
            folder.
    """
    for name in _FIXED:
        if name in fields:
            raise UnderstudyError(f"specialists takes no {name}; it follows from the generalist and its groups")
    for name, number in (("parallel", parallel), ("top_n", top_n)):
        if number < 1:
            raise UnderstudyError(f"{name} must be at least 1; it is {number}")
    begun = _weights(generalist)
    folder = PanelFolder(Path(run) if run is not None else _beside(Path(generalist)))
    given = Given(data=None if isinstance(data, (str, Path)) else data)
    names = {"data": name_of(data), "model": str(begun)}
    recipe = checked(SpecialistRecipe, names | in_groups(fields), "specialists")
    whole = prepare_data(_plain(recipe), given)
    wanted = Manifest(
        generalist=os.path.relpath(begun, folder.path), sha256=sha256(begun), data=recipe.data, clusters=clusters,
        group_size=group_size, columns=columns, seed=recipe.seed, classes=(), groups=(), held=(), top_n=top_n,
        soft=bool(recipe.soft),
    )  # fmt: skip
    if not overwrite and folder.exists:
        _keep(folder, wanted, whole.labelled)
    else:
        group(folder, wanted, recipe, begun, whole)
    groups = folder.manifest.groups
    if only is not None and not 0 <= only < len(groups):
        raise UnderstudyError(f"there is no specialist {only}; they are 0 to {len(groups) - 1}")
    jobs = {}
    for number in range(len(groups)) if only is None else [only]:
        raised = log_oversampling(whole.labelled, groups[number])
        biases = correction(groups[number], whole.labelled.classes, raised, soft=bool(recipe.soft))
        own = recipe.model_copy(update={"group": groups[number], "class_bias": biases, "seed": recipe.seed + number})
        if overwrite and folder.run(number).exists:
            folder.run(number).open(own, overwrite=True)
        alone = [*command, "--only", str(number)] if command and only is None else command
        jobs[f"specialist {number}"] = partial(ensure_run, own, folder.run(number).path, given, alone)
    if parallel == 1 or len(jobs) == 1:
        for job in jobs.values():
            job()
    else:
        run_jobs(jobs, parallel)
    if not folder.missing():
        report_on(folder, whole, student, command)
    return folder


def group(folder: PanelFolder, wanted: Manifest, recipe: SpecialistRecipe, begun: Path, material: Material) -> None:
    """Find the groups on the samples that the generalist's predictions are taken of, and write them down."""
    network = load_network(begun)
    check_classes(network, f"generalist {begun}", material.labelled.classes)
    device = device_of(recipe)
    found = covariance_of(fold(network.to(device)), material.labelled, device=device, workers=workers_of(recipe))
    matrix = found.matrix.cpu()
    groups = group_classes(
        matrix, wanted.clusters, columns=wanted.columns, group_size=wanted.group_size, seed=recipe.seed
    )
    held = confusion_held(found.together.cpu(), groups)
    classes = material.labelled.classes
    named = tuple(tuple(classes[i] for i in one) for one in groups)
    tensors = {"covariance": matrix.contiguous(), "mean": found.mean.cpu()}
    write_whole(folder.path / "covariance.safetensors", save(tensors))
    folder.write(wanted.model_copy(update={"classes": classes, "groups": named, "held": tuple(held)}))


def _weights(generalist: str | Path) -> Path:
    files = weights_of(str(generalist))
    if len(files) > 1:
        raise UnderstudyError(
            f"{generalist} holds {len(files)} networks, and specialists begin from one; name it, as in "
            f"--generalist {files[0]}"
        )
    if files[0].suffix == ".json":
        raise UnderstudyError(f"{generalist} is a panel of specialists; name the generalist that it began from")
    return files[0]


def _beside(generalist: Path) -> Path:
    return generalist / "specialists" if generalist.is_dir() else generalist.with_name(f"{generalist.stem}-specialists")


def _plain(recipe: SpecialistRecipe) -> TrainRecipe:
    """The same samples as they are before any group is made of them."""
    kept = {name: getattr(recipe, name) for name in TrainRecipe.model_fields if name != "kind"}
    return TrainRecipe(**kept)


def _keep(folder: PanelFolder, wanted: Manifest, source: Source) -> None:
    """Go on with the groups that the folder holds; only who is asked may change, and where things lie."""
    there = folder.manifest
    found = ("data", "classes", "groups", "held", "top_n")
    if there.sha256 != wanted.sha256:
        raise UnderstudyError(
            f"{folder.path} holds specialists of another generalist; choose another --run folder or pass --overwrite"
        )
    kept = wanted.model_copy(update={name: getattr(there, name) for name in found} | {"generalist": there.generalist})
    if kept != there:
        raise UnderstudyError(
            f"{folder.path} holds specialists that were made otherwise ({_difference(there, kept)}); choose another "
            "--run folder or pass --overwrite"
        )
    if there.classes != source.classes:
        raise UnderstudyError(
            f"{folder.path} holds specialists for {len(there.classes)} other classes than the {len(source.classes)} of "
            f"{source.name}; choose another --run folder or pass --overwrite"
        )
    if there.top_n != wanted.top_n or there.generalist != wanted.generalist:
        folder.write(there.model_copy(update={"top_n": wanted.top_n, "generalist": wanted.generalist}))


def _difference(there: Manifest, wanted: Manifest) -> str:
    name = next(name for name in Manifest.model_fields if getattr(there, name) != getattr(wanted, name))
    return f"{name.replace('_', '-')} {getattr(there, name)}, not {getattr(wanted, name)}"
