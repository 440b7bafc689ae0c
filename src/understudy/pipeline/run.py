"""A recipe's run: trained in its folder, from the newest checkpoint if there is one, evaluated, and on its page."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from understudy.config.recipe import Recipe
from understudy.data import Source, resize_square
from understudy.data.cache import decoded
from understudy.data.skipped import describe_skipped
from understudy.errors import UnderstudyError
from understudy.evaluation import predict_logits
from understudy.models import Network
from understudy.objectives.batch_norm import unsynchronize_batch_norm
from understudy.pipeline.base import Pipeline
from understudy.pipeline.batch_norm import Reestimated, images_for, reestimate, summary
from understudy.pipeline.device import accelerator_of, first_process, make_fabric, workers_of
from understudy.pipeline.evaluate import evaluate_run
from understudy.pipeline.first_stage import FirstStageRun
from understudy.pipeline.loss import trains_head
from understudy.pipeline.representation import Watch
from understudy.pipeline.resumption import check_data, check_teachers, same_machine
from understudy.pipeline.threads import choose_threads, using_threads
from understudy.runs.collection import RunCollection
from understudy.runs.replace import held, is_staged, replace_results
from understudy.runs.run import Run, new_run_path
from understudy.terminal import Terminal
from understudy.training import Callback, Loop, Member, launch
from understudy.training.compilation import compiled, why_not_compiled
from understudy.training.graph import why_not_graphed
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
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        command: the command line, for the page.
        notes: lines for the page.
        verb: default: the recipe's kind.

    Raises:
        UnderstudyError: a mistake in the recipe, or a folder that holds a run; one that ends the run before its first
            step leaves no folder behind.
    """
    pipeline.check()
    run = Run(Path(path) if path is not None else new_run_path(verb or pipeline.recipe.kind, pipeline.recipe.data))
    if overwrite:
        begin = partial(_begin, pipeline, command=command, notes=notes)
        replace_results(run.path, pipeline.recipe, begin, writes=first_process())
        if dist.is_initialized():
            dist.barrier()  # the others of torchrun's processes wait for the first
        return train_and_evaluate(pipeline, run, command)
    return _begin(pipeline, run.path, command=command, notes=notes)


def _begin(
    pipeline: Pipeline[Any],
    path: Path,
    *,
    command: Sequence[str],
    notes: Sequence[str] = (),
    threads: int | None = None,
) -> Run:
    """Run a recipe in a folder that holds no run; a mistake before the first step leaves nothing in it."""
    run = Run(path)
    if not first_process():  # the first takes the folder
        return train_and_evaluate(pipeline, run, command)
    with held(path):
        run.open(pipeline.recipe, notes)
        try:
            return train_and_evaluate(pipeline, run, command, threads=threads)
        except Exception:  # whatever it was, nothing half-made stays
            run.abandon()
            raise


def ensure(pipeline: Pipeline[Any], path: Path, command: Sequence[str] = (), *, threads: int | None = None) -> Run:
    """The finished run of a recipe: the one in the folder, that one resumed, or a new one.

    Args:
        threads: of the CPU, for a run that begins; chosen for it where None.

    Raises:
        InUse: another process has it in hand.
    """
    run = Run(path)
    if run.is_of(pipeline.recipe) and run.finished:
        return run
    with held(path) if first_process() else nullcontext():
        if run.is_of(pipeline.recipe):  # another process may have finished it since
            return run if run.finished else train_and_evaluate(pipeline, run, command, threads=threads)
        pipeline.check()
        return _begin(pipeline, path, command=command, threads=threads)


def train_and_evaluate(
    pipeline: Pipeline[Any],
    run: Run,
    command: Sequence[str] = (),
    *,
    within: RunCollection | None = None,
    threads: int | None = None,
) -> Run:
    """Train a recipe's members in a run folder, from its newest checkpoint if it has one; evaluate; write the page.

    Of torchrun's processes, the first holds the folder.

    Args:
        within: the collection that the run is part of, if all its runs have the same data.
        threads: of the CPU, for a run that begins; chosen for it where None.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint was written. Or a process of several was killed.
        Diverged: a loss became NaN or infinite.
        UnderstudyError: a mistake that the caller can fix, or data or teachers that have changed since the run began.
    """
    if not first_process():
        _launch(pipeline, run, within, threads)
        return run
    with held(run.path):
        if "created" not in run.record:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            run.note(created=now, command=list(command), versions=versions())
        _launch(pipeline, run, within, threads)
        on_cpu = accelerator_of(pipeline.recipe) == "cpu"
        with using_threads(run.record["machine"]["threads"] if on_cpu else pipeline.recipe.threads):
            evaluate_run(pipeline, run)
        run.finish()
    return run


def _launch(pipeline: Pipeline[Any], run: Run, within: RunCollection | None, threads: int | None) -> None:
    """Train on every device."""
    fabric, recipe = make_fabric(pipeline.recipe), pipeline.recipe
    work = partial(_train, pipeline=pipeline, run=run, within=within, threads=threads)
    if recipe.devices * recipe.nodes > 1:
        launch(fabric, work, str(run.path))
    else:
        work(fabric)


def versions() -> dict[str, str]:
    """The versions of the packages that a run's numbers depend on."""
    return {"understudy": __version__, "python": platform.python_version()} | {p: version(p) for p in _PACKAGES}


def _train(
    fabric: Fabric, pipeline: Pipeline[Any], run: Run, within: RunCollection | None, threads: int | None
) -> None:
    def choose() -> int:
        if threads is not None:
            return threads
        return choose_threads(pipeline, fabric).announced()

    _check_inputs(fabric, pipeline, run, within)
    with same_machine(fabric, run, choose):
        _train_members(fabric, pipeline, run)


def _check_inputs(fabric: Fabric, pipeline: Pipeline[Any], run: Run, within: RunCollection | None) -> None:
    """Check that data and teachers are what they were when the run began; all ranks raise what the first one does."""
    data, fault = pipeline.data, None
    if fabric.global_rank == 0:
        try:
            check_data(
                run, data.labeled.name, data.opened, within=within,
                accept_changes=pipeline.overrides.accept_changed_data,
            )  # fmt: skip
            if pipeline.teacher_files:
                check_teachers(run, pipeline.teacher_files)
            pipeline.verify()
        except UnderstudyError as found:
            fault = found
    if fault := fabric.broadcast(fault):
        raise fault


def _train_members(fabric: Fabric, pipeline: Pipeline[Any], run: Run) -> None:
    recipe, data, first = pipeline.recipe, pipeline.data, fabric.global_rank == 0
    teacher = pipeline.teacher(fabric.device)
    members = pipeline.members()
    if not any((run.path / "checkpoints").rglob("step-*.sha256")):
        pipeline.begin(members, run)
    terminal, staged = Terminal(), is_staged(run.path)
    watch = pipeline.watch(data.calibration, fabric.device)
    before = "" if watch is None else watch.begin(members)
    if first and not staged:  # what is staged is begun again in its place
        for line in _origins(pipeline, members):
            terminal.say(line)
        skipped = (describe_skipped(part, found) for part, found in data.skipped.items() if found)
        for line in (*data.notes, *skipped, *data.cautions):
            terminal.say(line, "yellow")
        if before:
            terminal.say(before)
        run.note(cautions=data.cautions)
    if teacher is not None:
        teacher.watch(signals_read(members))
    batches = pipeline.batches(fabric.device, fabric.global_rank, fabric.world_size, workers_of(recipe))
    callbacks: list[Callback] = []
    if first:
        callbacks += [MetricsFile(run.path / "metrics.jsonl", recipe.tracker)]
        callbacks += [] if staged or recipe.steps == 0 else [ConsoleLogger(pipeline.title(run), terminal)]
    loop = Loop(
        fabric, members, batches, recipe, teacher, _validator(data.validation, fabric.device, workers_of(recipe)),
        run.path / "checkpoints", callbacks, str(run.path), pause=staged, starts_well=pipeline.starts_well,
        watch=watch,
    )  # fmt: skip
    started = time.monotonic()
    say = terminal.say if first and not staged else lambda line: None
    try:
        batches.keep_decoded(loop.steps, say)
        if reason := why_not_graphed(fabric, members):
            say(f"training runs without a CUDA graph: {reason}")
        with _compiled(recipe, members, fabric.device, say):
            first = FirstStageRun(fabric, members, batches, recipe, teacher, run.path, pipeline.title(run), terminal)
            first.train(quiet=staged, pause=staged)
            loop.run()
    finally:
        if first:
            run.note(seconds=run.duration + time.monotonic() - started)
    undecoded = over_ranks(fabric, batches.skipped)
    if first:
        labeled = data.train.targets is not None
        run.note(
            init_from=_origins(pipeline, members),
            untrained_heads=[
                m.name for m in members if m.network.classes and not trains_head(m.learner.objective, labeled=labeled)
            ],
            cost=loop.timer.read(),
            skipped=data.skipped | {"train": data.skipped["train"] | undecoded},
        )
        if undecoded:
            terminal.say(describe_skipped("train, while decoding", undecoded), "yellow")
        _save_models(pipeline, run, members, fabric.device, loop.steps * recipe.batch_size)


def _compiled(
    recipe: Recipe, members: Sequence[Member], device: torch.device, say: Callable[[str], None]
) -> AbstractContextManager[None]:
    """A block in which the members' networks run compiled, if that is asked for and can be done here."""
    if not recipe.compile:
        return nullcontext()
    if reason := why_not_compiled(device):
        say(f"training runs without torch.compile: {reason}")
        return nullcontext()
    return compiled([member.learner.network for member in members])


def over_ranks(fabric: Fabric, skipped: dict[str, str]) -> dict[str, str]:
    """The records that any rank skipped, with the reasons."""
    parts = [skipped]
    if fabric.world_size > 1:
        parts *= fabric.world_size
        dist.all_gather_object(parts, skipped)
    return {name: reason for part in parts for name, reason in part.items()}


def _origins(pipeline: Pipeline[Any], members: Sequence[Member]) -> list[str]:
    """Where the weights of the teachers and of the members come from, as far as there is something to say."""
    return list(
        dict.fromkeys([*pipeline.teacher_notes(), *(m.network.init_from for m in members if m.network.init_from)])
    )


def signals_read(members: Sequence[Member]) -> set[str]:
    """What members read of their teacher, besides the logits."""
    return {name for member in members for name in member.needs.teacher} - {"logits"}


def _validator(source: Source | None, device: torch.device, workers: int) -> Callable[[Member], float] | None:
    if source is None:
        return None
    source = decoded(source, workers)  # once for all members and epochs

    def validate(member: Member) -> float:
        predictions = predict_logits(member.network, source, device=device)
        assert predictions.targets is not None
        return float((predictions.logits.argmax(1) == predictions.targets).float().mean())

    return validate


def _save_models(
    pipeline: Pipeline[Any], run: Run, members: Sequence[Member], device: torch.device, trained: int
) -> None:
    """Write each member's result: the last epoch's weights, or the best on the validation part."""
    changed: dict[str, Reestimated] = {}
    watched: Watch | None = None

    def watch(some: Source) -> Watch | None:
        nonlocal watched
        watched = watched or pipeline.watch(some, device)  # the teacher answers once for all members
        return watched

    for member in members:
        network = member.network
        unsynchronize_batch_norm(network)
        if member.best is not None:
            network.load_state_dict(member.best[1])
        network.watch(()).eval()
        pipeline.set_test_size(member.name, network, run, device)
        if found := _reestimated(pipeline, network, device, trained, watch):
            changed[member.name] = found
        pipeline.finish(member.name, network, run, device)
        network.save(run.path / "models" / f"{member.name}.safetensors")
    if changed:
        run.note(batch_norm={name: f"{name}: {found}" for name, found in changed.items()})
        if not is_staged(run.path):
            Terminal().say(summary(list(changed.values())))


def _reestimated(
    pipeline: Pipeline[Any], network: Network, device: torch.device, trained: int,
    watch: Callable[[Source], Watch | None],
) -> Reestimated | None:  # fmt: skip
    """What `reestimate` does to a network that was trained on so many images."""
    recipe, data = pipeline.recipe, pipeline.data
    source = data.train if data.train.labeled else data.labeled
    if not network.classes:
        source = replace(data.train, targets=None)
    if not recipe.precise_bn or not trained or (network.classes and source.targets is None):
        return None
    if recipe.augmentation.crop_size:
        source = resize_square(source, network.contract.shape[-1])
    return reestimate(
        network, source, images_for(trained), recipe.seed, device, workers_of(recipe),
        watch=None if network.classes else watch,
    )  # fmt: skip
