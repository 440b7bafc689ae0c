"""`compress`: a pre-trained backbone and a folder of images in, a small model's files and one page out.

collection.json  the configuration, what was decided, the stages, and the exported files
backbone/        the backbone as it is given, under its own head or a linear probe; backbone-0/, ... of several
backbone-small/  the same at a lower resolution
teacher/         the backbone fine-tuned, where there is time for it
targets/         the teachers' answers to views of the images, for all students
round-1-1/, ...  the race of several students or methods
pilot/           with a budget: the student on a twelfth of its schedule
alone/           with a transfer set: the student on the labels alone
student/         the student distilled, and the same student trained alone
int8/            the student trained on with the rounding of the int8 file, if that loses accuracy without
export/          the files, each verified, with a model card and predict.py
report.html      the page

What the stages do is in `understudy.compression`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack

from understudy.compression.budget import START_UP, Spent
from understudy.compression.facts import facts_of
from understudy.compression.files import Compression
from understudy.compression.outline import Outline
from understudy.compression.prepare import opened, prepare
from understudy.compression.recipes import TARGETS, default_steps, methods_for, student_recipe
from understudy.config.keywords import CompressKeywords
from understudy.config.verbs import CompressConfig
from understudy.evaluation import latency
from understudy.exporters import check_formats
from understudy.files import remove_empty
from understudy.models import load_network
from understudy.pipeline.run_data import Overrides, require
from understudy.pipeline.weights import weights_of
from understudy.reporting import render
from understudy.runs.collection import RunCollection
from understudy.runs.replace import held, is_staged, replace_results
from understudy.runs.run import Run, new_run_path
from understudy.terminal import Terminal
from understudy.verbs.arguments import Data, Place, Plan, configure, given, listed, place
from understudy.verbs.export import Export, export


def compress(
    data: Data,
    backbone: str | Path | Sequence[str | Path] = (),
    student: str | Sequence[str] = (),
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
        student: a model's name, or several to choose from; default: a ladder of networks for the images' size.
        transfer_set: images to distill on in addition to the data; labels are not needed.
        run: the folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `CompressConfig`.

    Returns:
        The stages' runs, and as `facts` the `CompressionFacts`.

    Raises:
        UnderstudyError: whatever `distill` and `export` raise; a budget too short for a pass of the student; no student
            within the limits.
    """
    config = configure(CompressConfig, options, data=data, backbone=listed(backbone), student=listed(student),
                       transfer_set=transfer_set)  # fmt: skip
    objects = Overrides(data=given(data), transfer_set=given(transfer_set), trust_code=True)
    return start(config, objects, place(run, overwrite))


def plan(config: CompressConfig, overrides: Overrides) -> Plan:
    """The outline in sentences, and the student's recipe."""
    require(config, overrides)
    check_formats(config.format)
    with Terminal(stderr=True).waiting("measuring speeds"):
        made = prepare(config, overrides)
    folder = new_run_path("compress", config.data)
    steps = config.steps or default_steps(made.outline)
    method = methods_for(config, made.outline.examples)[0]
    teachers, targets = [str(folder / "backbone")], str(folder / TARGETS)
    first = student_recipe(config, made.outline, teachers, targets, made.students[0][0], method, steps)
    tried = f"students: {', '.join(name for name, _ in made.students)}"
    return Plan({"student": first}, overrides, (*made.outline.notes, tried))


def start(config: CompressConfig, overrides: Overrides, place: Place) -> RunCollection:
    require(config, overrides)
    check_formats(config.format)
    found, started = RunCollection(place.run or new_run_path("compress", config.data)), time.monotonic()
    if place.overwrite:
        replace_results(found.path, config, lambda folder: start(config, overrides, place.at(folder)))
        return resume(found, overrides)
    with held(found.path):
        new = not found.exists
        if not found.continues(config):
            with Terminal().waiting("measuring speeds"):
                made = prepare(config, overrides)
            found.open(
                config, [], command=place.command, notes=made.outline.notes, outline=asdict(made.outline),
                students=made.students, spent=START_UP + time.monotonic() - started,
                candidates=[one.model_dump(mode="json") for one in made.candidates],
            )  # fmt: skip
        try:
            return resume(found, overrides)
        except Exception:  # whatever it was, nothing half-made stays
            if new:
                found.abandon()
                remove_empty(found.path / TARGETS, found.path)
            raise


def resume(found: RunCollection, overrides: Overrides) -> RunCollection:
    """Run the stages that are not finished, export, and write the page."""
    terminal, config, record = Terminal(), found.config, found.record
    outline = Outline.from_record(record["outline"])
    for line in () if is_staged(found.path) else found.notes:  # what is staged is begun again in its place
        terminal.say(line)
    if config.devices * config.nodes == 1:  # else each process opens it
        overrides = replace(overrides, data=opened(config, overrides, outline.view_size))
    stages = Compression(found, config, outline, overrides, Spent.of(found))
    teachers = stages.teachers()
    students = [(name, seconds) for name, seconds in record["students"]]
    steps = config.steps or default_steps(outline)
    stages.label(stages.recipe(teachers, students[0][0], stages.methods[0], steps))
    winner = stages.race(teachers, students)
    stages.rivals()
    pilot = stages.pilot(teachers, winner)
    student = stages.student(teachers, winner, pilot)
    if "export" not in found.record:
        terminal.say("export", "bold")
        handed = stages.handed_over(student)
        done = _exported(handed, stages)
        rounded = stages.rounded(student, done.files) if handed.path == student.path else None
        if rounded is not None:
            done = _exported(rounded, stages)
        found.note(export=done.facts.model_dump(mode="json"))
    if "latency_ms" not in found.record:
        found.note(latency_ms=_latencies(teachers, student, overrides.trust_code))
    facts = facts_of(found, stages.rivals())
    found.write_page(facts, render(facts, found.path, config))
    stages.spent.note()
    found.finish()
    return found


def _exported(run: Run, stages: Compression) -> Export:
    """The files of a run, whatever int8 loses: it is trained for that if there is time, and the page says it."""
    with stages.spent.during("export"), Terminal().waiting("exporting"):
        return export(
            run.path, format=stages.config.format, network=next(iter(run.models)), data=stages.overrides.data,
            out=stages.found.path / "export", tolerance=100.0, trust_code=stages.overrides.trust_code,
        )  # fmt: skip


def _latencies(teachers: Sequence[str], student: Run, trust_code: bool) -> dict[str, float]:
    """Milliseconds per image on one thread, of the teachers together and of the student."""
    files = [file for name in teachers for file in weights_of(name)]
    each = [latency(load_network(file).eval(), threads=1)[0] for file in files]
    network = student.network("distilled-0", trust_code=trust_code).eval()
    return {"teacher": sum(each), "student": latency(network, threads=1)[0]}
