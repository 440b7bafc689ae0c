"""`compress`: a pre-trained backbone and a folder of images in, a small model's files and one page out.

collection.json  the configuration, the stages, and the exported files
teacher/         the backbone transferred to the data; teacher-0/, teacher-1/, ... of several
targets/         the teachers' answers to views of the images, for all students
pilot/           with a budget: the student on an eighth of its schedule
alone/           with a transfer set: the student on the labels alone
student/         the student distilled, and the same student trained alone
export/          the files, each verified, with a model card and predict.py
report.html      the page

The teacher is trained by BiT-HyperRule; how the student is trained is in `verbs.schedules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from understudy.config.keywords import CompressKeywords
from understudy.config.recipe import DistillRecipe, Recipe
from understudy.config.verbs import CompressConfig, TransferConfig
from understudy.config.yaml import checked
from understudy.data import typical_size
from understudy.evaluation import latency
from understudy.evaluation.facts import CompressionFacts, ScalingForecast
from understudy.exporters import check_formats
from understudy.files import remove_empty
from understudy.models import load_network
from understudy.pipeline.distill import Distill
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.label import Labeling
from understudy.pipeline.label import label as write_targets
from understudy.pipeline.resumption import threads_of
from understudy.pipeline.run import train_and_evaluate
from understudy.pipeline.run_data import Overrides, require
from understudy.reporting import render
from understudy.runs.collection import RunCollection, named_when_stopped
from understudy.runs.replace import held, is_staged, replace_results
from understudy.runs.run import Run, new_run_path
from understudy.runs.targets import TargetsFolder
from understudy.terminal import Terminal
from understudy.verbs.arguments import Data, Place, Plan, configure, given, listed, place
from understudy.verbs.export import export
from understudy.verbs.schedules import (
    LARGEST,
    PILOT,
    SHARED,
    TARGETS,
    Teacher,
    alone_recipe,
    default_steps,
    label_config,
    parse_budget,
    scheduled,
    student_recipe,
    teacher_names,
    views_shown,
    within_budget,
)
from understudy.verbs.task import Task


def compress(
    data: Data,
    backbone: str | Path | Sequence[str | Path],
    student: str,
    *,
    transfer_set: Data | None = None,
    run: str | Path | None = None,
    overwrite: bool = False,
    **options: Unpack[CompressKeywords],
) -> RunCollection:
    """Transfer a backbone to labeled images, distill it into a student, export that, and show the gain.

    Called again with the same folder it continues at the stage where it was stopped.

    Args:
        data: whatever `open_source` opens.
        backbone: as for `transfer`, by name or path; several make an ensemble of teachers.
        student: a model's name.
        transfer_set: images to distill on in addition to the data; labels are not needed.
        run: the folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `CompressConfig`.

    Returns:
        The stages' runs, and as `facts` the `CompressionFacts`.

    Raises:
        UnderstudyError: whatever `transfer`, `distill` and `export` raise; a budget too short for a step of each stage.
    """
    config = configure(CompressConfig, options, data=data, backbone=listed(backbone), student=student,
                       transfer_set=transfer_set)  # fmt: skip
    objects = Overrides(data=given(data), transfer_set=given(transfer_set), trust_code=True)
    return start(config, objects, place(run, overwrite))


def plan(config: CompressConfig, overrides: Overrides, folder: Path | None = None) -> Plan:
    """The recipes of the stages. With a budget a few steps of each are measured."""
    require(config, overrides)
    check_formats(config.format)
    seconds = None if config.budget is None else parse_budget(config.budget)
    folder = folder or new_run_path("compress", config.data)
    teachers = [Teacher.of(task) for task in _tasks(config, overrides)]
    task, first = teachers[0].task, teachers[0].recipe
    overrides = task.overrides  # with the data opened
    images = min(LARGEST, max(typical_size(task.source)))
    size = config.student_size or min(images, first.augmentation.crop_size or images)
    recipe = student_recipe(config, teachers, size, folder)
    examples = len(Distill(recipe, overrides).data.train)
    steps = config.steps or default_steps(examples, recipe.batch_size)
    notes: list[str] = []
    if seconds is not None:
        notes, teachers, steps = within_budget(seconds, teachers, recipe, config.views, overrides)
    recipe = scheduled(recipe, steps, examples)
    names = teacher_names(len(teachers))
    stages: dict[str, Recipe] = {name: one.recipe for name, one in zip(names, teachers, strict=True)}
    if seconds is not None:
        stages["pilot"] = recipe.model_copy(update={"steps": max(1, steps // PILOT), "baseline": False})
    if config.transfer_set is not None:
        stages["alone"] = alone_recipe(recipe)
    stages["student"] = recipe
    run_notes = {name: one.notes for name, one in zip(names, teachers, strict=True)}
    return Plan(stages, overrides, (*(line for one in teachers for line in one.notes), *notes), run_notes)


def start(config: CompressConfig, overrides: Overrides, place: Place) -> RunCollection:
    require(config, overrides)
    check_formats(config.format)
    found = RunCollection(place.run or new_run_path("compress", config.data))
    if place.overwrite:
        replace_results(found.path, config, lambda folder: start(config, overrides, place.at(folder)))
        return resume(found, overrides)
    with held(found.path):
        new = not found.exists
        if not found.continues(config):
            planned = plan(config, overrides, found.path)
            (found.path / TARGETS).mkdir(parents=True, exist_ok=True)  # so that its place is noted
            for name, recipe in planned.recipes.items():
                Run(found.path / name).prepare(recipe, planned.run_notes.get(name, ()))
            # last, as what has a record can be resumed
            found.open(config, list(planned.recipes), command=place.command, notes=planned.notes)
        try:
            return resume(found, overrides)
        except Exception:  # whatever it was, nothing half-made stays
            if new:
                found.abandon()
                remove_empty(found.path / TARGETS, found.path)
            raise


def resume(found: RunCollection, overrides: Overrides) -> RunCollection:
    """Run the stages that are not finished, export, and write the page."""
    terminal, stages = Terminal(), found.runs
    for line in () if is_staged(found.path) else found.notes:  # what is staged is begun again in its place
        terminal.say(line)
    for number, (name, run) in enumerate(stages.items(), 1):
        if run.finished:
            continue
        terminal.say(f"{number}/{len(stages) + 1} {name}", "bold")
        with named_when_stopped(found.path):
            _label(found, run, overrides)
            pipeline = pipeline_of(run.located_recipe(required=True), overrides)
            train_and_evaluate(pipeline, run, found.command, within=found, threads=threads_of(found))
    if "export" not in found.record:
        terminal.say(f"{len(stages) + 1}/{len(stages) + 1} export", "bold")
        done = export(
            stages["student"].path, format=found.config.format, network="distilled-0", data=overrides.data,
            out=found.path / "export", trust_code=overrides.trust_code,
        )  # fmt: skip
        found.note(export=done.facts.model_dump(mode="json"))
    if "latency_ms" not in found.record:
        found.note(latency_ms=_latencies(found, overrides.trust_code))
    facts = _facts(found)
    found.write_page(facts, render(facts, found.path, found.config))
    found.finish()
    return found


def _label(found: RunCollection, run: Run, overrides: Overrides) -> None:
    """Have the teachers answer the views that a stage needs, unless they did."""
    recipe = run.located_recipe()
    targets = TargetsFolder(found.path / TARGETS)
    if not isinstance(recipe, DistillRecipe) or recipe.targets is None or targets.finished:
        return
    pipeline = Distill(recipe.model_copy(update={"targets": None}), overrides)
    student = found.runs["student"].recipe
    assert isinstance(student, DistillRecipe)
    views = views_shown(student, len(pipeline.data.train), found.config.views)
    config = label_config(recipe, views, threads_of(found))
    write_targets(Labeling(pipeline, config, targets))


def _tasks(config: CompressConfig, overrides: Overrides) -> list[Task]:
    values: dict[str, Any] = config.model_dump(exclude_unset=True, include=set(SHARED))
    values |= {name: getattr(config, name) for name in ("crop_size", "micro_batch", "from_scratch")}
    values |= {"steps": config.teacher_steps, "calibrate": True, "data": config.data}
    if config.flip is not None:
        values["augmentation"] = {"flip": config.flip}
    tasks: list[Task] = []
    for backbone in config.backbone:
        options = checked(TransferConfig, values | {"backbone": backbone}, "compress")
        tasks.append(Task.of(options, config.data, overrides))
        overrides = tasks[-1].overrides  # the next finds the data opened
    return tasks


def _facts(found: RunCollection) -> CompressionFacts:
    record, stages = found.record, found.runs
    facts = stages["student"].facts
    alone = stages["alone"].facts.of("model") if "alone" in stages else facts.of("alone")
    renamed = [row.model_copy(update={"role": "alone", "name": "alone"}) for row in alone]
    return CompressionFacts.from_json(
        {
            "name": found.path.resolve().name, "run": facts.model_dump(),
            "rows": [row.model_dump() for row in (*facts.of("teacher"), *renamed, *facts.of("distilled"))],
            "latency_ms": record["latency_ms"], "export": record["export"],
            "seconds": {name: run.duration for name, run in stages.items()},
            "answer_seconds": TargetsFolder(found.path / TARGETS).record.get("seconds", 0.0),
            "forecast": _forecast(found),
            "notes": found.notes, "command": found.command,
        }
    )  # fmt: skip


def _forecast(found: RunCollection) -> dict[str, Any] | None:
    """What a longer schedule is likely to gain, by the pilot; None without one."""
    runs = [found.runs[name] for name in ("pilot", "student") if name in found.runs]
    if len(runs) < 2:
        return None
    errors = [1 - (run.facts.of("distilled")[0].mean("accuracy") or 0) for run in runs]
    steps = [run.recipe.steps or 0 for run in runs]
    return ScalingForecast(pilot_steps=steps[0], steps=steps[1], pilot_error=errors[0], error=errors[1]).model_dump()


def _latencies(found: RunCollection, trust_code: bool) -> dict[str, float]:
    """Milliseconds per image on one thread, of the teachers together and of the student."""
    teachers = [next(iter(run.models.values())) for name, run in found.runs.items() if name.startswith("teacher")]
    each = [latency(load_network(file).eval(), threads=1)[0] for file in teachers]
    student = found.runs["student"].network("distilled-0", trust_code=trust_code).eval()
    return {"teacher": sum(each), "student": latency(student, threads=1)[0]}
