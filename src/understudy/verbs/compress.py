"""`compress`: a pre-trained backbone and a folder of images in, a small model's files and one page out.

collection.json  the configuration, what was decided, the stages, and the exported files
backbone/        the backbone as it is given, under its own head or a linear probe; backbone-0/, ... of several
backbone-small/  the same at a lower resolution
teacher/         the backbone fine-tuned, where there is time for it
targets/         the teachers' answers to views of the images, for all students
round-1-1/, ...  the race of several students or methods
pilot/           with a budget: the student on an eighth of its schedule
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Unpack

from understudy.compression.budget import START_UP, Spent, parse_budget
from understudy.compression.candidates import Limits, measure_untrained, names_for, within
from understudy.compression.facts import facts_of
from understudy.compression.outline import Outline, Speeds, answer_seconds, draft, fitted, update_seconds
from understudy.compression.recipes import TARGETS, default_steps, student_recipe
from understudy.compression.stages import Stages
from understudy.config.keywords import CompressKeywords
from understudy.config.verbs import CompressConfig
from understudy.data import Source, Splits, omit_classes, only_classes, open_source, typical_size
from understudy.errors import UnderstudyError
from understudy.evaluation import flops, latency
from understudy.evaluation.facts import CandidateFacts
from understudy.exporters import check_formats
from understudy.files import path_of, remove_empty
from understudy.models import Network, fold, load_network
from understudy.pipeline.base import new_network
from understudy.pipeline.modality import contract_of
from understudy.pipeline.run_data import Overrides, require
from understudy.pipeline.threads import using_threads
from understudy.pipeline.weights import pretrained, weights_of
from understudy.reporting import render
from understudy.runs.collection import RunCollection
from understudy.runs.replace import held, is_staged, replace_results
from understudy.runs.run import Run, new_run_path
from understudy.terminal import Terminal
from understudy.verbs.arguments import Data, Place, Plan, configure, given, listed, place
from understudy.verbs.export import export

_TIMED = 128  # pixels at which networks are timed, at most
_FORMATS = ("onnx", "int8")  # of which candidates are timed


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


@dataclass(frozen=True)
class Prepared:
    """What is decided before anything is trained.

    Attributes:
        students: names, with seconds per image of an update, in the order in which they are tried.
        candidates: the students' files, timed untrained; none where no limits are asked for.
    """

    outline: Outline
    students: list[tuple[str, float]]
    candidates: list[CandidateFacts]


def prepare(config: CompressConfig, overrides: Overrides) -> Prepared:
    """Sizes, views, steps and candidates, by a few seconds of measurements.

    Raises:
        UnderstudyError: the budget is too short, no student is within the limits, or a class has too few images.
    """
    budget, limits = None if config.budget is None else parse_budget(config.budget), Limits.of(config)
    splits = opened(config, overrides, config.size)
    train, test = selected(splits.train, config), splits.test
    contract = replace(contract_of(train), classes=train.classes)

    def network(spec: str, pixels: int | None) -> Network:
        made = new_network(spec, overrides, contract, 0, config.seed, several=True)
        return made if pixels is None else made.set_input_size(pixels)

    if config.teacher:
        teachers = [load_network(file) for name in config.teacher for file in weights_of(name)]
    else:
        teachers = [network(pretrained(spec, config.from_scratch), None) for spec in config.backbone]
    native = max(one.contract.shape[-1] for one in teachers)
    outline = draft(config, train, native, resizable=overrides.data is None)
    names = names_for(config, min(typical_size(train)))
    small = min(outline.student_size, _TIMED)
    with using_threads(config.threads):
        seconds = {name: update_seconds(network(name, small), train) for name in names}
        if budget is not None:
            size = min(outline.teacher_size, _TIMED)
            answer = answer_seconds([fold(one.set_input_size(size)) for one in teachers], train)
            slowest = max(seconds[name] for name in (config.student or names[:1]))
            speeds = Speeds(answer, teachers[0].contract.shape[-1], slowest, small)
            outline = fitted(outline, config, speeds, budget, 2 * config.seeds)
    grown = (outline.student_size / small) ** 2
    students = [(name, seconds[name] * grown) for name in names]
    candidates: list[CandidateFacts] = []
    if limits and test is not None:
        networks = {name: network(name, outline.student_size) for name in names}
        timed = [one for name in names for one in measure_untrained(networks[name], name, test, train, _FORMATS)]
        candidates = within(limits, timed, {name: flops(one) for name, one in networks.items()})
        standing = {one.model for one in candidates if one.stands}
        students = [one for one in students if one[0] in standing]
    return Prepared(outline, students, candidates)


def plan(config: CompressConfig, overrides: Overrides) -> Plan:
    """The outline in sentences, and the student's recipe."""
    require(config, overrides)
    check_formats(config.format)
    made = prepare(config, overrides)
    folder = new_run_path("compress", config.data)
    steps = config.steps or default_steps(made.outline.examples)
    first = student_recipe(
        config, made.outline, [str(folder / "backbone")], str(folder / TARGETS), made.students[0][0], config.method[0],
        steps,
    )  # fmt: skip
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
    stages = Stages(found, config, outline, overrides, Spent.of(found))
    teachers = stages.teachers()
    students = [(name, seconds) for name, seconds in record["students"]]
    steps = config.steps or default_steps(outline.examples)
    stages.label(stages.recipe(teachers, students[0][0], stages.methods[0], steps))
    winner = stages.race(teachers, students)
    stages.rivals()
    pilot = stages.pilot(teachers, winner)
    student = stages.student(teachers, winner, pilot)
    if "export" not in found.record:
        terminal.say("export", "bold")
        handed = stages.handed_over(student)
        handed = stages.rounded(student) if handed.path.name == "student" else handed
        with stages.spent.during("export"):
            done = export(
                handed.path, format=config.format, network=next(iter(handed.models)), data=overrides.data,
                out=found.path / "export", trust_code=overrides.trust_code,
            )  # fmt: skip
        found.note(export=done.facts.model_dump(mode="json"))
    if "latency_ms" not in found.record:
        found.note(latency_ms=_latencies(teachers, student, overrides.trust_code))
    facts = facts_of(found, stages.rivals())
    found.write_page(facts, render(facts, found.path, config))
    stages.spent.note()
    found.finish()
    return found


def opened(config: CompressConfig, overrides: Overrides, size: int | None) -> Splits:
    """The data, decoded at a size."""
    root = path_of(config.data_root, "the data root") if config.data_root else None
    source = config.data if overrides.data is None else overrides.data
    return open_source(source, root=root, download=config.download, size=size)


def selected(train: Source, config: CompressConfig) -> Source:
    """The training samples of the chosen classes.

    Raises:
        UnderstudyError: they are not labeled.
    """
    if train.targets is None:
        raise UnderstudyError(f"{train.name} has no labels, which the teacher needs; give labeled images")
    if config.only_classes:
        train = train.subset(only_classes(train, config.only_classes))
    if config.omit_classes:
        train = train.subset(omit_classes(train, config.omit_classes))
    return train


def _latencies(teachers: Sequence[str], student: Run, trust_code: bool) -> dict[str, float]:
    """Milliseconds per image on one thread, of the teachers together and of the student."""
    files = [file for name in teachers for file in weights_of(name)]
    each = [latency(load_network(file).eval(), threads=1)[0] for file in files]
    network = student.network("distilled-0", trust_code=trust_code).eval()
    return {"teacher": sum(each), "student": latency(network, threads=1)[0]}
