"""`suite`: one backbone transferred to many tasks, each in a folder of its own, and one table.

collection.json    the configuration and the tasks
TASK/              a run folder, or of few-shot transfers a collection of runs
subsets/           with vtab: manifests of each task's examples
errors/            tracebacks of tasks that failed for another reason than a mistake of the user
evaluation.json    the results of each task so far
report.html        the table
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from understudy.config.keywords import SuiteKeywords
from understudy.config.verbs import SuiteConfig, TransferConfig
from understudy.config.yaml import checked
from understudy.data import NAMED, Splits, group_of, vtab_subsets
from understudy.errors import Interrupted, UnderstudyError, nearest
from understudy.evaluation.facts import ShotResult, SuiteFacts, TaskResult
from understudy.files import path_of, write_whole
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.resumption import threads_of
from understudy.pipeline.run import train_and_evaluate
from understudy.pipeline.run_data import Overrides, require
from understudy.pipeline.train import Train
from understudy.pipeline.weights import pretrained
from understudy.reporting import render
from understudy.runs.collection import RunCollection, as_set, named_when_stopped
from understudy.runs.folder import EVALUATION
from understudy.runs.replace import held, replace_results
from understudy.runs.run import Run, new_run_path
from understudy.verbs import few_shots
from understudy.verbs.arguments import Place, Plan, configure, given, place
from understudy.verbs.task import Task


def suite(
    data: Sequence[str | Path] | Mapping[str, object],
    backbone: str | Path,
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    **options: Unpack[SuiteKeywords],
) -> RunCollection:
    """Transfer one backbone to many tasks, one after the other.

    A task that fails does not stop the others; the reasons are in `facts.failed`. Called again with the same folder it
    continues where it was stopped: finished tasks stay, and those that failed are tried again.

    Args:
        data: names and paths; or a dict of them, or of whatever `open_source` opens, by the tasks' names.
        backbone: as for `transfer`, by name or path.
        run: the folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `SuiteConfig`.

    Returns:
        The tasks' runs, and as `facts` the `SuiteFacts` with the table.

    Raises:
        UnderstudyError: no task, one named twice or unknown, a backbone without weights, options that contradict each
            other, or a folder of another suite.
    """
    if isinstance(data, (str, Path)):
        raise UnderstudyError(f"a suite takes a list of tasks, not {str(data)!r} alone; write [{str(data)!r}]")
    tasks = dict(data) if isinstance(data, Mapping) else tasks_of(data)
    names = [str(one) if given(one) is None else name for name, one in tasks.items()]
    config = configure(SuiteConfig, {**options, "data": tuple(names)}, backbone=backbone)
    return _start(config, tasks, Overrides(trust_code=True), place(run, overwrite))


def plan(config: SuiteConfig, overrides: Overrides) -> Plan:
    """The recipes that the rule resolves to on every task."""
    require(config, overrides)
    recipes, notes = {}, []
    for name, data in tasks_of(config.data).items():
        planned = Task.of(config, str(data), Overrides(trust_code=overrides.trust_code)).plan(name)
        recipes |= planned.recipes
        notes += [f"{name}: {note}" for note in planned.notes]
    return Plan(recipes, overrides, tuple(notes))


def start(config: SuiteConfig, overrides: Overrides, place: Place) -> RunCollection:
    return _start(config, tasks_of(config.data), overrides, place)


def _start(config: SuiteConfig, tasks: Mapping[str, object], overrides: Overrides, place: Place) -> RunCollection:
    require(config, Overrides())
    for one in tasks.values():
        _check_known(one)
    pretrained(config.backbone, config.from_scratch)
    found = RunCollection(place.run or new_run_path("suite", config.backbone.partition("?")[0], "backbone"))
    if place.overwrite:
        replace_results(found.path, config, lambda folder: _start(config, tasks, overrides, place.at(folder)))
        return _continue(found, tasks, overrides, planned=True)
    with held(found.path):
        continues = found.continues(config)
        if not continues:
            objects = [name for name, one in tasks.items() if given(one) is not None]
            found.open(config, list(tasks), command=place.command, objects=objects)
            _write(found, {})
        return _continue(found, tasks, overrides, planned=continues)


def resume(found: RunCollection, overrides: Overrides) -> RunCollection:
    """Do the tasks that are not finished, and those that failed."""
    objects = found.record["objects"]
    named = zip(found.runs, found.config.data, strict=True)
    tasks = {name: None if name in objects else data for name, data in named}
    return _continue(found, tasks, overrides, planned=True)


def _continue(
    found: RunCollection, tasks: Mapping[str, object], overrides: Overrides, *, planned: bool
) -> RunCollection:
    """Do the tasks that have no results.

    Args:
        planned: whether runs that there are were planned for this suite; they go on as planned.
    """
    tasks = dict(zip(found.runs, tasks.values(), strict=True))  # by the names that the folder has for them
    known = found.facts.tasks if (found.path / EVALUATION).exists() else ()
    results = {task.name: task for task in known if task.results}
    for name in found.runs:
        if name in results:
            continue
        try:
            with named_when_stopped(found.path):
                results[name] = _task(found, name, tasks[name], overrides, planned)
        except Interrupted:
            raise
        except UnderstudyError as fault:
            results[name] = TaskResult(name=name, group=group_of(name), reason=str(fault))
        except Exception as fault:  # a bug that one task meets must not cost the others
            write_whole(kept := found.path / "errors" / f"{name}.txt", traceback.format_exc())
            first = (str(fault).strip().splitlines() or ["no reason given"])[0][:200]
            reason = f"{type(fault).__name__}: {first} (see {kept})"
            results[name] = TaskResult(name=name, group=group_of(name), reason=reason)
        _write(found, results)
    if not any(result.reason for result in results.values()):
        found.finish()
    return found


def _write(found: RunCollection, results: Mapping[str, TaskResult]) -> None:
    """The facts and the page of what is known."""
    config: SuiteConfig = found.config
    tasks = [results.get(name, TaskResult(name=name, group=group_of(name))) for name in found.runs]
    facts = SuiteFacts(
        name=found.path.name, backbone=config.backbone, vtab=config.vtab, command=found.command, tasks=tasks
    )
    found.write_page(facts, render(facts, found.path, config))


def _task(found: RunCollection, name: str, data: object, overrides: Overrides, planned: bool) -> TaskResult:
    config: SuiteConfig = found.config
    if data is None:
        raise UnderstudyError(f"the data of {name} is a Python object; call understudy.suite again with this folder")
    overrides, threads = replace(overrides, data=given(data)), threads_of(found)
    values = {key: value for key, value in as_set(config).items() if key not in ("kind", "data", "vtab")}
    options = checked(TransferConfig, values | {"data": name if given(data) is not None else str(data)}, name)
    if config.shots:
        drawn = RunCollection(found.path / name)
        if planned and drawn.exists and not drawn.finished:
            drawn = few_shots.resume(drawn, overrides, threads=threads)
        elif not drawn.finished:
            where = Place(drawn.path, command=tuple(found.command))
            drawn = few_shots.start(options, overrides, where, threads=threads)
        results = drawn.facts.results
        first = next(iter(drawn.runs.values()))
    else:
        first = Run(found.path / name)
        if planned and first.exists:
            pipeline = pipeline_of(first.located_recipe(required=True), overrides)
            first = first if first.finished else train_and_evaluate(pipeline, first, found.command, threads=threads)
        else:
            first = _one_run(found, name, options, overrides)
        rows = first.facts.of("model")
        examples = (first.facts.data.train_examples if first.facts.data else None) or 0
        accuracies = tuple(rows[0].values("accuracy")) if rows else ()
        results = [ShotResult(shots=0, examples=examples, accuracies=accuracies)]
    facts = first.facts.data
    if facts is None or not all(one.accuracies for one in results):
        raise UnderstudyError(f"{name} has no labeled test part, so nothing was scored; give data that has one")
    return TaskResult(
        name=name, group=group_of(name), classes=len(facts.classes), examples=facts.examples, results=list(results)
    )


def _one_run(found: RunCollection, name: str, options: TransferConfig, overrides: Overrides) -> Run:
    """The task's run, finished: on all its examples, or on VTAB-1k's."""
    fields: dict[str, Any] = {}
    config: SuiteConfig = found.config
    if config.vtab:
        options = options.model_copy(update={"with_validation": True})
        options.model_fields_set.add("with_validation")
    task = Task.of(options, options.data, overrides)
    if config.vtab:
        splits = task.overrides.data
        assert isinstance(splits, Splits), "the data of a single process is opened"
        for part, subset in vtab_subsets(splits, config.seed).items():
            subset.write(manifest := found.path / "subsets" / f"{name}-{part}.json")
            fields["subset"] = str(manifest)  # the last of them: all thousand
    planned = task.plan(name, **fields)
    run, recipe = Run(found.path / name), planned.recipes[name]
    run.prepare(recipe, planned.notes)
    try:
        if run.finished:
            return run
        threads = threads_of(found)
        return train_and_evaluate(Train(recipe, planned.overrides), run, found.command, threads=threads)
    except Exception:
        run.abandon()
        raise


def tasks_of(data: Sequence[str | Path]) -> dict[str, object]:
    """Each task by the name of its data set, or of its folder or file.

    >>> tasks_of(["digits", "photos/birds.zip"])
    {'digits': 'digits', 'birds': 'photos/birds.zip'}
    """
    found: dict[str, object] = {}
    for one in data:
        text = str(one)
        named = isinstance(one, str) and text.lower() in NAMED
        path = path_of(text, "the data")
        name = text.lower() if named else (path.resolve().name if path.is_dir() else path.stem) or "data"
        if name in found:
            raise UnderstudyError(
                f"the task {name} is named twice; name it once"
                if str(found[name]) == text
                else f"{found[name]} and {text} would both be the task {name}; rename one"
            )
        found[name] = text
    return found


def _check_known(data: object) -> None:
    """Check that a name is a data set's or a path that exists."""
    if given(data) is not None:
        return
    text = str(data)
    if text.startswith("hf:") or text.lower() in NAMED or path_of(text, "the data").exists():
        return
    hint = "; check the path" if "/" in text else nearest(text, NAMED) or "; understudy datasets lists named ones"
    raise UnderstudyError(f"there is no folder, file or named data set {text!r}{hint}")
