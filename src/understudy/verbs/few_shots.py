"""`few_shots`: the same transfer from a few examples of each class, several times, each time from other examples.

collection.json    the configuration and the runs
subsets/           a manifest of each draw's samples
shots-5-draw-0/    a run folder like any other, one for each draw
report.html        the medians
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from understudy.config.keywords import TransferKeywords
from understudy.config.verbs import TransferConfig
from understudy.data import Subset, draw_shots, read_subset
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import FewShotFacts, ShotResult
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.resumption import threads_of
from understudy.pipeline.run import train_and_evaluate
from understudy.pipeline.run_data import Overrides, require
from understudy.reporting import render
from understudy.runs.collection import RunCollection, named_when_stopped
from understudy.runs.replace import held, replace_results
from understudy.runs.run import Run, new_run_path
from understudy.verbs.arguments import Data, Model, Place, Plan, configure, given, module, place
from understudy.verbs.task import Task


def few_shots(
    data: Data, backbone: Model, shots: Sequence[int], *, run: str | Path | None = None, overwrite: bool = False,
    **options: Unpack[TransferKeywords],
) -> RunCollection:  # fmt: skip
    """Transfer a backbone from a few examples of each class, several times, each time from other examples.

    Draw d of a number of shots is a function of (seed, d) and the samples' ids; fewer shots of a draw are part of
    more. Called again with the same folder it continues where it was stopped.

    Args:
        data, backbone: as for `transfer`.
        shots: training examples per class, as in (1, 5, 10).
        run: the folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `TransferConfig`; `draws` is the number of draws.

    Returns:
        The runs, and as `facts` the `FewShotFacts` with the medians.

    Raises:
        UnderstudyError: as `transfer`, and for a class with fewer examples.
    """
    if not shots:
        raise UnderstudyError("shots is empty; name numbers of examples per class, as in (1, 5, 10)")
    config = configure(TransferConfig, {**options, "shots": tuple(shots)}, data=data, backbone=backbone)
    objects = Overrides(data=given(data), model=module(backbone), trust_code=True)
    return start(config, objects, place(run, overwrite))


def plan(config: TransferConfig, overrides: Overrides) -> Plan:
    """The recipe of a draw of each number of shots, on as many samples."""
    require(config, overrides)
    task = Task.of(config, config.data, overrides)
    total, recipes, notes = len(task.source), {}, ()
    for name, subset in _draws(config, task).items():
        if subset.draw == 0:
            planned = task.plan(name, fraction=len(subset.ids) / total)
            recipes, notes = recipes | dict(planned.recipes), planned.notes
    return Plan(recipes, task.overrides, notes)


def start(config: TransferConfig, overrides: Overrides, place: Place, *, threads: int | None = None) -> RunCollection:
    """Draw the samples, train on each draw, and write the page; `threads` as for `resume`."""
    require(config, overrides)
    found = RunCollection(place.run or new_run_path("transfer", config.data))
    if place.overwrite:
        replace_results(found.path, config, lambda folder: start(config, overrides, place.at(folder)))
        return resume(found, overrides, threads=threads)
    with held(found.path):
        continues = found.continues(config)
        task = Task.of(config, config.data, overrides)
        draws = _draws(config, task)
        manifests = {name: found.path / "subsets" / f"{name}.json" for name in draws}
        try:
            for name, subset in draws.items():
                if continues and manifests[name].exists() and read_subset(manifests[name]) != subset:
                    raise UnderstudyError(
                        f"{found.path} holds draws of other samples; choose another --run folder or pass --overwrite"
                    )
                subset.write(manifests[name])
            for name, subset in draws.items():
                planned = task.plan(name, subset=str(manifests[name]), seed=config.seed + subset.draw)
                Run(found.path / name).prepare(planned.recipes[name], planned.notes)
            if not continues:
                found.open(config, list(draws), command=place.command)  # last, as what has a record can be resumed
            return resume(found, task.overrides, threads=threads)
        except Exception:  # whatever it was, nothing half-made stays
            if not continues:
                found.abandon(list(manifests.values()))
            raise


def resume(found: RunCollection, overrides: Overrides, *, threads: int | None = None) -> RunCollection:
    """Finish the runs that are not finished, and write the page.

    Args:
        threads: of the CPU, where none of the runs has begun; the first chooses where None.
    """
    for run in found.runs.values():
        if not run.finished:
            pipeline = pipeline_of(run.located_recipe(required=True), overrides)
            with named_when_stopped(found.path):
                train_and_evaluate(pipeline, run, found.command, within=found, threads=threads_of(found) or threads)
    facts = _facts(found)
    found.write_page(facts, render(facts, found.path, found.config))
    found.finish()
    return found


def _draws(config: TransferConfig, task: Task) -> dict[str, Subset]:
    return {
        f"shots-{count}-draw-{draw}": draw_shots(task.source, count, config.seed, draw)
        for count in config.shots
        for draw in range(config.draws)
    }


def _facts(found: RunCollection) -> FewShotFacts:
    config: TransferConfig = found.config
    results = []
    for shots in config.shots:
        runs = [run for name, run in found.runs.items() if name.startswith(f"shots-{shots}-")]
        rows = [run.facts.of("model") for run in runs]
        means = (of[0].mean("accuracy") for of in rows if of)
        examples = len(read_subset(found.path / "subsets" / f"shots-{shots}-draw-0.json").ids)
        accuracies = tuple(mean for mean in means if mean is not None)
        results.append(ShotResult(shots=shots, examples=examples, accuracies=accuracies))
    recipe = next(iter(found.runs.values())).recipe
    return FewShotFacts(
        name=found.path.name, data=config.data, backbone=getattr(recipe, "model", config.backbone),
        command=found.command, results=results,
    )  # fmt: skip
