"""`compress`: a pre-trained backbone and a folder of images in, a small model's files and one page out.

compress.json    what was asked and planned, and what came of it
teacher/         the backbone transferred to the data; teacher-0/, teacher-1/, ... of several
pilot/           with a budget: the student on an eighth of its schedule
alone/           the student on the labels alone, where it is distilled on unlabelled images too
student/         the student distilled, beside the same student alone
export/          the files, each checked, with a model card and predict.py
report.html

The teacher is trained by BiT-HyperRule; how the student learns from it is in `budgeting`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from understudy import api
from understudy.budgeting import (
    LARGEST,
    PILOT,
    SHARED,
    alone_recipe,
    parse_budget,
    patient_steps,
    scheduled,
    student_recipe,
    within_budget,
)
from understudy.data import typical_size
from understudy.errors import Interrupted, UnderstudyError
from understudy.evaluation import latency
from understudy.exporting import Export, export
from understudy.exports import check_formats
from understudy.files import write_whole
from understudy.material import Given, prepare_data
from understudy.models import load_network
from understudy.performing import perform
from understudy.recipe import AnyRecipe
from understudy.reporting.compressed import Foreseen, render_compressed
from understudy.reporting.facts import Row
from understudy.runs import Run, fresh_folder
from understudy.transferring import Task

RECORD = "compress.json"
FORMATS = ("onnx", "int8")


@dataclass(frozen=True)
class Compression:
    """A folder of stages, each a run like any other."""

    path: Path

    @property
    def exists(self) -> bool:
        return (self.path / RECORD).exists()

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.path / RECORD).read_text())

    def note(self, **facts: Any) -> None:
        """Add to `compress.json`."""
        known = self.record if self.exists else {}
        write_whole(self.path / RECORD, json.dumps(known | facts, indent=1) + "\n")

    @property
    def stages(self) -> dict[str, Run]:
        """The runs by name, in the order in which they are made."""
        return {name: Run(self.path / name) for name in self.record["stages"]}

    @property
    def teachers(self) -> list[Run]:
        return [run for name, run in self.stages.items() if name.startswith("teacher")]

    @property
    def student(self) -> Run:
        return self.stages["student"]

    @property
    def finished(self) -> bool:
        return self.exists and bool(self.record.get("finished"))

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def rows(self) -> list[Row]:
        """The teacher, the student alone and the student distilled."""
        facts = self.student.facts
        alone = self.stages["alone"].facts.of("model") if "alone" in self.stages else facts.of("alone")
        renamed = [row.model_copy(update={"role": "alone", "name": "alone"}) for row in alone]
        return [*facts.of("teacher"), *renamed, *facts.of("distilled")]

    @property
    def foreseen(self) -> Foreseen | None:
        """What more time would likely buy, by the pilot; None without one."""
        if "pilot" not in self.stages:
            return None
        pilot, student = (self.stages[name].facts.of("distilled")[0] for name in ("pilot", "student"))
        steps = [self.stages[name].recipe.steps or 0 for name in ("pilot", "student")]
        return Foreseen(steps[0], steps[1], 1 - (pilot.mean("accuracy") or 0), 1 - (student.mean("accuracy") or 0))


def compress(
    data: object,
    backbone: str | Path | Sequence[str | Path],
    student: str,
    *,
    transfer_set: object | None = None,
    budget: float | str | None = None,
    format: str | Sequence[str] = FORMATS,
    steps: int | None = None,
    teacher_steps: int | None = None,
    crop_size: int | None = None,
    student_size: int | None = None,
    batch_size: int | None = None,
    from_scratch: bool = False,
    run: str | Path | None = None,
    overwrite: bool = False,
    command: Sequence[str] = (),
    **shared: Any,
) -> Compression:
    """Transfer a backbone to a labelled set of images, distil it into a student, export that, and show the gain.

    Called again with the same folder it goes on at the stage where it was stopped.

    Args:
        data: whatever `open_source` opens.
        backbone: as for `transfer`, by name or path; several make an ensemble of teachers.
        student: a model's name.
        transfer_set: images to distil on beside those of the data; they need no labels.
        budget: seconds, or as in "30m" and "1h30m"; the stages' schedules are chosen by measured steps to fit it.
        format: the files to write, as for `export`.
        steps, teacher_steps: updates of the student, and of each teacher in place of the rule's, where there is no
            budget.
        crop_size: pixels a side that teachers read, in place of the rule's.
        student_size: pixels a side that the student reads; those of the images, at most `LARGEST`, where unset.
        batch_size: images of a forward pass of a teacher.
        from_scratch: whether a backbone without pre-trained weights will do.
        run: the folder; a new one under runs/ where unset.
        **shared: fields of all stages' recipes: data_root, download, size, only_classes, omit_classes, seed, precision,
            accelerator, devices, nodes, workers, checkpoint_every.

    Raises:
        UnderstudyError: whatever `transfer`, `distill` and `export` raise; a budget too short for a step of each stage.
    """
    backbones = [backbone] if isinstance(backbone, (str, Path)) else list(backbone)
    formats = tuple(dict.fromkeys([format] if isinstance(format, str) else format))
    unknown = next((name for name in shared if name not in SHARED), None)
    if unknown is not None:
        raise UnderstudyError(f"compress has no option {unknown!r}; it has {', '.join(SHARED)}")
    if not backbones:
        raise UnderstudyError("say what to begin from: a timm: or torchvision: model, a run folder or a weights file")
    if budget is not None and (steps or teacher_steps):
        raise UnderstudyError("a budget chooses the steps; leave it out, or the steps")
    check_formats(formats)
    seconds = parse_budget(budget) if budget is not None else None
    found = Compression(
        Path(run) if run is not None else fresh_folder("compress", Path(api.name_of(data)).stem, "data")
    )
    asked = {
        "data": api.name_of(data), "backbones": [str(one) for one in backbones], "student": student,
        "transfer_set": None if transfer_set is None else api.name_of(transfer_set), "budget": seconds,
        "formats": list(formats), "steps": steps, "teacher_steps": teacher_steps, "crop_size": crop_size,
        "student_size": student_size, "batch_size": batch_size, "from_scratch": from_scratch,
    } | shared  # fmt: skip
    given = Given(
        data=None if isinstance(data, (str, Path)) else data,
        transfer_set=None if transfer_set is None or isinstance(transfer_set, (str, Path)) else transfer_set,
        trust_code=True,
    )
    if found.exists and not overwrite:
        if found.record["asked"] != json.loads(json.dumps(asked)):
            raise UnderstudyError(
                f"{found.path} holds another compression; choose another --run folder or pass --overwrite"
            )
        if found.finished:
            raise UnderstudyError(f"{found.path} holds this compression, finished; its page is {found.report}")
        return go_on(found, given)
    ways = {"steps": teacher_steps, "crop_size": crop_size, "batch_size": batch_size, "from_scratch": from_scratch}
    tasks = [Task.of(data, str(one), **ways, calibrate=True, **shared) for one in backbones]
    plans = [task.plan() for task in tasks]
    images = min(LARGEST, max(typical_size(tasks[0].material().labelled)))
    recipe = student_recipe(
        plans, asked, student_size or min(images, plans[0].recipe.views.window or images), found.path
    )
    examples = len(prepare_data(recipe, given).train)
    steps = steps or patient_steps(examples, recipe.batch_size)
    told: list[str] = []
    if seconds is not None:
        told, plans, steps = within_budget(seconds, tasks, plans, recipe, given)
    recipe = scheduled(recipe, steps, examples)
    stages: dict[str, AnyRecipe] = {
        "teacher" if len(plans) == 1 else f"teacher-{i}": plan.recipe for i, plan in enumerate(plans)
    }
    if seconds is not None:
        short = {"steps": max(1, (recipe.steps or 1) // PILOT), "baseline": False}
        stages["pilot"] = recipe.model_copy(update=short)
    if transfer_set is not None:
        stages["alone"] = alone_recipe(recipe)
    stages["student"] = recipe
    said = [line for plan in plans for line in plan.told] + told
    for i, (name, stage) in enumerate(stages.items()):
        folder = Run(found.path / name)
        folder.open(stage, overwrite=overwrite or folder.exists)
        folder.note(told=list(plans[i].told) if i < len(plans) else [])
    found.note(asked=asked, command=list(command), stages=list(stages), told=said, finished=False, export=None)
    return go_on(found, given)


def go_on(found: Compression, given: Given | None = None, *, trust_code: bool = False) -> Compression:
    """Perform the stages that are not finished, export, and write the page."""
    console, given = Console(), given or Given(trust_code=trust_code)
    record = found.record
    for line in record["told"]:
        console.print(line, highlight=False)
    stages = found.stages
    for number, (name, run) in enumerate(stages.items(), 1):
        if run.finished:
            continue
        console.print(f"[bold]{number}/{len(stages) + 1} {name}[/bold]", highlight=False)
        try:
            perform(run.recipe, run, given, record["command"])
        except Interrupted as stop:
            raise Interrupted(str(found.path), stop.step, stop.signal_number) from stop
    if record["export"] is None:
        console.print(f"[bold]{len(stages) + 1}/{len(stages) + 1} export[/bold]", highlight=False)
        done = export(
            found.student.path, format=record["asked"]["formats"], network="distilled-0", data=given.data,
            out=found.path / "export", trust_code=given.trust_code,
        )  # fmt: skip
        found.note(export=_facts(done))
    if "latency_ms" not in found.record:
        found.note(latency_ms=_latencies(found, given.trust_code))
    write_whole(found.report, render(found))
    found.note(finished=True)
    return found


def render(found: Compression) -> str:
    """The page of a finished compression."""
    record = found.record
    seconds = {name: run.duration for name, run in found.stages.items()}
    return render_compressed(
        found.path.resolve().name, found.student.facts, found.rows, record["latency_ms"], record["export"],
        seconds, found.foreseen, [*record["told"]], record["command"],
    )  # fmt: skip


def _facts(done: Export) -> dict[str, Any]:
    """The files as the page has them."""
    original = done.files[0].original
    return {
        "folder": done.path.name,
        "original": {"latency_ms": original.latency_ms, "bytes": original.bytes, "accuracy": original.accuracy},
        "files": [one.to_json() for one in done.files],
    }


def _latencies(found: Compression, trust_code: bool) -> dict[str, float]:
    """Milliseconds for one image on one thread, of the teachers together and of the student."""
    teachers = [next(iter(run.models.values())) for run in found.teachers]
    each = [latency(load_network(file).eval(), threads=1)[0] for file in teachers]
    student = latency(found.student.network("distilled-0", trust_code=trust_code).eval(), threads=1)[0]
    return {"teacher": sum(each), "student": student}
