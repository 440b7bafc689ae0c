"""`specialists`: classes grouped by what a generalist confuses, and a specialist trained for each group.

collection.json           the configuration and the specialists' runs
specialists.json          what the panel is made of
covariance.safetensors    of the generalist's predictions
specialist-0/, -1/, ...   a run folder each
evaluation.json           the facts that the page is made from
report.html               the page
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from safetensors.torch import save

from understudy.config.keywords import SpecialistsKeywords
from understudy.config.recipe import SpecialistRecipe, TrainRecipe
from understudy.config.verbs import SpecialistsConfig
from understudy.data import Source
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import PanelFacts
from understudy.files import leaving_no_empty_folder, sha256, write_whole
from understudy.models import Network, fold, load_network, read_weights
from understudy.panels.covariance import covariance_of
from understudy.panels.grouping import confusion_within, group_classes, order_by_group
from understudy.panels.sampling import log_oversampling
from understudy.panels.score import score_panel
from understudy.pipeline.device import device_of, make_fabric, workers_of
from understudy.pipeline.evaluate import hardware
from understudy.pipeline.panel_folder import MANIFEST, Manifest, load_panel, read_manifest, specialist_run, untrained
from understudy.pipeline.resumption import check_data, threads_of
from understudy.pipeline.run import ensure
from understudy.pipeline.run_data import Overrides, RunData, require
from understudy.pipeline.specialist import Specialist, bias_correction
from understudy.pipeline.threads import choose_threads
from understudy.pipeline.train import Train
from understudy.pipeline.weights import weights_of
from understudy.reporting import render
from understudy.runs.collection import RunCollection, as_set, named_when_stopped
from understudy.runs.places import noted_places
from understudy.runs.replace import replace_results
from understudy.teachers import check_classes
from understudy.training import run_jobs
from understudy.verbs.arguments import Data, Place, Plan, configure, given, place

_MUTABLE = frozenset({"only", "parallel", "student", "top_n", "generalist", "workers", "devices", "accelerator"})
"""Options that may change when a panel is continued."""


def specialists(
    data: Data,
    generalist: str | Path,
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    **options: Unpack[SpecialistsKeywords],
) -> RunCollection:
    """Group the classes that a generalist confuses, and train a specialist for each group (Hinton et al. 2015).

    What the folder holds is kept: trained specialists stay, one that was stopped continues.

    Args:
        data: as for `train`; labeled.
        generalist: a run folder of one network, or a weights file.
        run: the folder; specialists/ in the generalist's run folder by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `SpecialistsConfig`, as `clusters`, `epochs` and `lr`.

    Returns:
        The specialists' runs, and once all are trained, as `facts`, the `PanelFacts`. The folder is a teacher for
        `distill`.

    Raises:
        UnderstudyError: numbers that do not fit the classes, a generalist of other classes, or another panel in the
            folder.
    """
    config = configure(SpecialistsConfig, options, data=data, generalist=generalist)
    return start(config, Overrides(data=given(data), trust_code=True), place(run, overwrite))


def plan(config: SpecialistsConfig, overrides: Overrides) -> Plan:
    """The recipe of each specialist. The groups are found by a pass of the generalist over the data."""
    require(config, overrides)
    weights = _weights(config.generalist)
    data = _data(config, overrides)
    manifest, _ = _grouped(config, weights, weights.parent, data)
    return Plan(_recipes(config, weights, manifest, data.labeled), overrides)


def start(config: SpecialistsConfig, overrides: Overrides, place: Place) -> RunCollection:
    require(config, overrides)
    weights = _weights(config.generalist)
    found = RunCollection(place.run or _default_folder(Path(config.generalist)))
    if place.overwrite:
        replace_results(found.path, config, lambda folder: start(config, overrides, place.at(folder)))
        _note_generalist(found.path, read_manifest(found.path), weights)
        return _continue(found, config, weights, overrides, place.command)
    with leaving_no_empty_folder(found.path):
        new = not found.exists
        if not new:
            _keep(found, config, weights)
        else:
            data = _data(config, overrides)
            manifest, tensors = _grouped(config, weights, found.path, data)
            _check_numbers(config, manifest)
            recipes = _recipes(config, weights, manifest, data.labeled)
            manifest.write(found.path)
            write_whole(found.path / "covariance.safetensors", save(tensors))
            found.open(config, list(recipes), command=place.command)
        try:
            return _continue(found, config, weights, overrides, place.command)
        except Exception:  # whatever it was, nothing half-made stays
            if new:
                found.abandon([found.path / name for name in (MANIFEST, "covariance.safetensors")])
            raise


def resume(found: RunCollection, overrides: Overrides) -> RunCollection:
    """Train the specialists that are not trained, and write the page."""
    config: SpecialistsConfig = found.config
    config = config.model_copy(update={"only": None})
    weights = _weights(config.generalist)
    _note_generalist(found.path, read_manifest(found.path), weights)
    return _continue(found, config, weights, overrides, tuple(found.command))


def _continue(
    found: RunCollection, config: SpecialistsConfig, weights: Path, overrides: Overrides, command: tuple[str, ...]
) -> RunCollection:
    folder, manifest = found.path, read_manifest(found.path)
    _check_numbers(config, manifest)
    data = _data(config, overrides)
    check_data(found, config.data, data.opened, accept_changes=overrides.accept_changed_data)
    if manifest.classes != data.labeled.classes:
        raise UnderstudyError(
            f"{folder} holds specialists for {len(manifest.classes)} other classes than the "
            f"{len(data.labeled.classes)} of {data.labeled.name}; choose another --run folder or pass --overwrite"
        )
    pipelines, jobs = [], {}
    for number, recipe in enumerate(_recipes(config, weights, manifest, data.labeled).values()):
        if config.only in (None, number):
            alone = [*command, "--only", str(number)] if command and config.only is None else list(command)
            run = specialist_run(folder, number)
            pipelines.append(Specialist(recipe, overrides))
            jobs[f"specialist {number}"] = partial(ensure, pipelines[-1], run.path, alone)
    parallel = min(config.parallel, len(jobs))
    with named_when_stopped(folder):
        if parallel == 1:
            for job in jobs.values():
                job(threads=threads_of(found))
        else:
            threads = threads_of(found) or choose_threads(pipelines[0], make_fabric(config), parallel).count
            run_jobs({name: partial(job, threads=threads) for name, job in jobs.items()}, parallel, threads)
    if not untrained(folder):
        _evaluate(found, config, data, command)
        found.finish()
    return found


def _check_numbers(config: SpecialistsConfig, manifest: Manifest) -> None:
    """Check what depends on the numbers of groups and classes, before anything is trained."""
    if config.top_n > len(manifest.classes):
        raise UnderstudyError(f"top_n must be from 1 to {len(manifest.classes)}, the number of classes")
    if config.only is not None and config.only >= len(manifest.groups):
        raise UnderstudyError(f"there is no specialist {config.only}; they are 0 to {len(manifest.groups) - 1}")


def _data(config: SpecialistsConfig, overrides: Overrides) -> RunData:
    """The samples before any group is made of them."""
    fields = config.model_dump(exclude_unset=True, include=set(TrainRecipe.model_fields) - {"kind"})
    recipe = TrainRecipe(**{**fields, "epochs": config.epochs, "model": config.generalist})
    return Train(recipe, overrides).data


def _recipes(
    config: SpecialistsConfig, weights: Path, manifest: Manifest, source: Source
) -> dict[str, SpecialistRecipe]:
    """Each specialist's recipe: its group, and the biases that undo its over-sampling."""
    fields = config.model_dump(exclude_unset=True, include=set(SpecialistRecipe.model_fields) - {"kind"})
    recipes = {}
    for number, group in enumerate(manifest.groups):
        biases = bias_correction(group, source.classes, log_oversampling(source, group), soft=bool(config.soft))
        own = {"model": str(weights), "group": group, "class_bias": biases, "seed": config.seed + number}
        recipes[f"specialist-{number}"] = SpecialistRecipe(**{**fields, **own})
    return recipes


def _grouped(
    config: SpecialistsConfig, weights: Path, folder: Path, data: RunData
) -> tuple[Manifest, dict[str, torch.Tensor]]:
    """The groups that the generalist's predictions on the data give, and their covariance."""
    source, network = data.labeled, load_network(weights)
    check_classes(network, f"generalist {weights}", source.classes)
    device = device_of(config)
    found = covariance_of(fold(network.to(device)), source, device=device, workers=workers_of(config))
    matrix = found.matrix.cpu()
    groups = group_classes(
        matrix, config.clusters, columns=config.columns, group_size=config.group_size, seed=config.seed
    )
    manifest = Manifest(
        generalist=os.path.relpath(weights, folder), sha256=sha256(weights), data=config.data,
        clusters=config.clusters, group_size=config.group_size, columns=config.columns, seed=config.seed,
        classes=source.classes, groups=tuple(tuple(source.classes[i] for i in one) for one in groups),
        confusion=tuple(confusion_within(found.second_moment.cpu(), groups)), top_n=config.top_n,
        soft=bool(config.soft),
    )  # fmt: skip
    return manifest, {"covariance": matrix.contiguous(), "mean": found.mean_x.cpu()}


def _keep(found: RunCollection, config: SpecialistsConfig, weights: Path) -> None:
    """Check that a folder holds these specialists, and note what may change."""
    manifest = read_manifest(found.path)
    if manifest.sha256 != sha256(weights):
        raise UnderstudyError(
            f"{found.path} holds specialists of another generalist; choose another --run folder or pass --overwrite"
        )
    before, now = (
        {name: value for name, value in values.items() if name not in _MUTABLE}
        for values in (found.record["config"], as_set(config))
    )
    if before != now:
        name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
        raise UnderstudyError(
            f"{found.path} holds specialists with another {name.replace('_', '-')} ({before.get(name)}, not "
            f"{now.get(name)}); choose another --run folder or pass --overwrite"
        )
    _note_generalist(found.path, manifest.model_copy(update={"top_n": config.top_n}), weights)
    found.note(config=as_set(config), places=noted_places(config, found.path), finished=False)


def _note_generalist(folder: Path, manifest: Manifest, weights: Path) -> None:
    """Write the manifest with the place of the generalist, unless it has been."""
    manifest = manifest.model_copy(update={"generalist": os.path.relpath(weights, folder)})
    if manifest != read_manifest(folder):
        manifest.write(folder)


def _weights(generalist: str) -> Path:
    files = weights_of(generalist)
    if len(files) > 1:
        raise UnderstudyError(
            f"{generalist} holds {len(files)} networks, and specialists start from one; name it, as in "
            f"--generalist {files[0]}"
        )
    if files[0].name == MANIFEST:
        raise UnderstudyError(f"{generalist} is a panel of specialists; name its generalist")
    return files[0]


def _default_folder(generalist: Path) -> Path:
    return generalist / "specialists" if generalist.is_dir() else generalist.with_name(f"{generalist.stem}-specialists")


def _evaluate(found: RunCollection, config: SpecialistsConfig, data: RunData, command: Sequence[str]) -> None:
    """Score the panel on the data's test part; without labels there is no page."""
    test, folder = data.test, found.path
    if test is None or test.targets is None:
        return
    manifest, panel = read_manifest(folder), load_panel(folder)
    check_classes(panel, str(folder), test.classes)
    scores = score_panel(panel, test, _students(config.student, test.classes))
    matrix = read_weights(folder / "covariance.safetensors").tensors.get("covariance")
    if matrix is None or matrix.shape != (len(manifest.classes),) * 2:
        raise UnderstudyError(f"{folder} has no covariance of its classes; find the groups again with --overwrite")
    order = torch.tensor(order_by_group(manifest.index, len(manifest.classes)))
    for group, confusion in zip(scores["groups"], manifest.confusion, strict=True):
        group["held"] = confusion
    facts = PanelFacts.from_json(
        scores
        | {
            "name": f"{folder.resolve().parent.name}/{folder.name}",
            "data": test.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": hardware(),
            "command": list(command),
            "top_n": manifest.top_n,
            "classes": [manifest.classes[i] for i in order.tolist()],
            "covariance": matrix[order][:, order].tolist(),
        }
    )
    found.write_page(facts, render(facts, folder, config))


def _students(names: Sequence[str], classes: tuple[str, ...]) -> dict[str, Network]:
    networks = {}
    for name in names:
        for file in weights_of(name):
            network = load_network(file)
            check_classes(network, f"student {file}", classes)
            networks[file.stem if len(names) == 1 else f"{Path(name).name} {file.stem}"] = network
    return networks
