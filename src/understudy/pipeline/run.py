"""A recipe's run: trained in its folder, from the newest checkpoint if there is one, evaluated, and on its page."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from understudy.data import Source
from understudy.errors import UnderstudyError
from understudy.evaluation import predict_logits
from understudy.files import leaving_no_empty_folder, sha256
from understudy.pipeline.base import Pipeline
from understudy.pipeline.device import first_process, make_fabric, workers_of
from understudy.pipeline.evaluate import evaluate_run
from understudy.pipeline.loss import trains_head
from understudy.runs.run import Run, new_run_path
from understudy.training import Callback, Loop, Member, launch
from understudy.training.logging import ConsoleLogger, MetricsFile
from understudy.version import __version__

_PACKAGES = ("torch", "torchvision", "timm", "lightning-fabric", "numpy")


def start(
    pipeline: Pipeline[Any],
    path: str | Path | None = None,
    *,
    overwrite: bool = False,
    command: Sequence[str] = (),
    notes: Sequence[str] = (),
    verb: str = "",
) -> Run:
    """Run a recipe in a folder of its own.

    Args:
        path: a new folder under runs/ where None, named by the verb.
        overwrite: replace the run that the folder holds.
        command: the command line, for the page.
        notes: lines for the page.
        verb: default: the recipe's kind.

    Raises:
        UnderstudyError: a mistake in the recipe, or a folder that holds a run; one that ends the run before its first
            step leaves no folder behind.
    """
    pipeline.check()
    run = Run(Path(path) if path is not None else new_run_path(verb or pipeline.recipe.kind, pipeline.recipe.data))
    if not first_process():  # the first takes the folder
        return train_and_evaluate(pipeline, run, command)
    with leaving_no_empty_folder(run.path):
        run.open(pipeline.recipe, overwrite=overwrite)
        if notes:
            run.note(notes=list(notes))
        try:
            return train_and_evaluate(pipeline, run, command)
        except UnderstudyError:
            run.abandon()
            raise


def ensure(pipeline: Pipeline[Any], path: Path, command: Sequence[str] = ()) -> Run:
    """The finished run of a recipe: the one in the folder, that one resumed, or a new one."""
    run = Run(path)
    if run.exists and run.recipe == pipeline.recipe:
        return run if run.finished else train_and_evaluate(pipeline, run, command)
    return start(pipeline, path, command=command)


def train_and_evaluate(pipeline: Pipeline[Any], run: Run, command: Sequence[str] = ()) -> Run:
    """Train a recipe's members in a run folder, from its newest checkpoint if it has one; evaluate; write the page.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint was written.
        Diverged: a loss became NaN or infinite.
        UnderstudyError: a mistake that the caller can fix.
    """
    if "created" not in run.record:
        run.note(created=datetime.now(UTC).isoformat(timespec="seconds"), command=list(command), versions=versions())
    recipe = pipeline.recipe
    fabric = make_fabric(recipe)
    if recipe.devices * recipe.nodes > 1:
        launch(fabric, partial(_train, pipeline=pipeline, run=run))
    else:
        _train(fabric, pipeline, run)
    if fabric.global_rank == 0:
        evaluate_run(pipeline, run)
        run.note(finished=True)
    return run


def versions() -> dict[str, str]:
    """The versions of the packages that a run's numbers depend on."""
    return {"understudy": __version__, "python": platform.python_version()} | {p: version(p) for p in _PACKAGES}


def _train(fabric: Fabric, pipeline: Pipeline[Any], run: Run) -> None:
    recipe, data, first = pipeline.recipe, pipeline.data, fabric.global_rank == 0
    teacher = pipeline.teacher(fabric.device)
    if first and pipeline.teacher_files:
        _check_teachers(run, pipeline.teacher_files)
    members = pipeline.members()
    console = Console()
    if first:
        for line in dict.fromkeys(member.network.init_from for member in members):
            console.print(line, highlight=False) if line else None
    if teacher is not None:
        teacher.watch(signals_read(members))
    batches = pipeline.batches(fabric.device, fabric.global_rank, fabric.world_size, workers_of(recipe))
    callbacks: list[Callback] = []
    if first:
        callbacks += [MetricsFile(run.path / "metrics.jsonl", recipe.tracker)]
        callbacks += [ConsoleLogger(pipeline.title(run), console)]
    loop = Loop(
        fabric, members, batches, recipe, teacher, _validator(data.validation, fabric.device),
        run.path / "checkpoints", callbacks, str(run.path),
    )  # fmt: skip
    started = time.monotonic()
    try:
        loop.run()
    finally:
        if first:
            run.note(seconds=run.duration + time.monotonic() - started)
    if first:
        labeled = data.train.targets is not None
        run.note(
            init_from=list(dict.fromkeys(filter(None, (m.network.init_from for m in members)))),
            untrained_heads=[m.name for m in members if not trains_head(m.learner.objective, labeled=labeled)],
            cost=loop.timer.read(),
            skipped=dict(data.train.skipped) | batches.skipped,
        )
        _save_models(pipeline, run, members, fabric.device)


def signals_read(members: Sequence[Member]) -> set[str]:
    """What members read of their teacher, besides the logits."""
    return {name for member in members for name in member.learner.objective.needs.teacher} - {"logits"}


def _check_teachers(run: Run, files: Sequence[str]) -> None:
    """Teachers are kept by path and hash: a resumed run must find the same ones."""
    found = {file: sha256(Path(file)) for file in files}
    known = run.record.get("teachers")
    if known is not None and known != found:
        changed = next((file for file in known if known[file] != found.get(file)), "one")
        raise UnderstudyError(f"teacher {changed} has changed since this run began; restore it or start a new run")
    run.note(teachers=found)


def _validator(source: Source | None, device: torch.device) -> Callable[[Member], float] | None:
    if source is None:
        return None

    def validate(member: Member) -> float:
        predictions = predict_logits(member.network, source, device=device)
        assert predictions.targets is not None
        return float((predictions.logits.argmax(1) == predictions.targets).float().mean())

    return validate


def _save_models(pipeline: Pipeline[Any], run: Run, members: Sequence[Member], device: torch.device) -> None:
    """Write each member's result: the last epoch's weights, or the best on the validation part."""
    for member in members:
        network = member.network
        if member.best is not None:
            network.load_state_dict(member.best[1])
        network.watch(()).eval()
        pipeline.finish(member.name, network, run, device)
        network.save(run.path / "models" / f"{member.name}.safetensors")
