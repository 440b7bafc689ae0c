"""The facts of a compression, from the records of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from understudy.compression.candidates import PRECISIONS, Limits
from understudy.evaluation.facts import CandidateFacts, CompressionFacts, GivenFacts, ScalingForecast
from understudy.runs.collection import RunCollection
from understudy.runs.run import Run

_ROUTES = {"given": "as given", "probe": "linear probe", "neighbors": "k-NN"}


def facts_of(found: RunCollection, rivals: Mapping[str, Sequence[CandidateFacts]]) -> CompressionFacts:
    """The student's run with its teacher, its rivals and its files."""
    record, stages = found.record, found.runs
    student = stages["student"]
    facts = student.facts
    alone = stages["alone"].facts.of("model") if "alone" in stages else facts.of("alone")
    renamed = [row.model_copy(update={"role": "alone", "name": "alone"}) for row in alone]
    seconds = {name: float(value) for name, value in record.get("stage_seconds", {}).items()}
    return CompressionFacts.from_json(
        {
            "name": found.path.resolve().name, "run": facts.model_dump(),
            "rows": [row.model_dump() for row in (*facts.of("teacher"), *renamed, *facts.of("distilled"))],
            "given": [
                _given(run, seconds.get(name, 0.0)).model_dump() for name, run in stages.items() if _is_backbone(name)
            ],
            "teacher_kept": record.get("teacher_kept", ""),
            "candidates": [one.model_dump() for one in (*_students(found, student), *_backbones(found, rivals))],
            "limits": Limits.of(found.config).to_json(),
            "latency_ms": record["latency_ms"], "export": record["export"], "seconds": seconds,
            "forecast": _forecast(found),
            "notes": found.notes, "command": found.command,
        }
    )  # fmt: skip


def _backbones(found: RunCollection, rivals: Mapping[str, Sequence[CandidateFacts]]) -> Iterator[CandidateFacts]:
    handed = found.record.get("handed", "student")
    for name, files in rivals.items():
        yield from (one.model_copy(update={"chosen": name == handed}) for one in files)


def _is_backbone(name: str) -> bool:
    return name.partition("-")[0] == "backbone" and name != "backbone-small"


def _given(run: Run, seconds: float) -> GivenFacts:
    """What a backbone was worth: its kept head on the test part, and all routes by cross-validation."""
    scores: dict[str, Any] = run.record["frozen"]["model-0"]
    kept = "as given" if scores["own"] else "linear probe"
    (row,) = run.facts.rows or [None]
    scored = {} if row is None else {kept: row.seeds[0]}
    return GivenFacts(
        backbone=getattr(run.recipe, "model", run.path.name),
        accuracy={route: one.accuracy for route, one in scored.items()},
        validation={name: scores[key] for key, name in _ROUTES.items() if scores[key] is not None},
        right={route: one.right for route, one in scored.items()},
        seconds=seconds,
    )


def _students(found: RunCollection, student: Run) -> list[CandidateFacts]:
    """The files that are handed over, and those that were only raced or timed."""
    record, recipe = found.record, student.recipe
    name, size = getattr(recipe, "student", ""), recipe.input_size or 0
    raced = record.get("race", {}).values()
    validation = {one["student"]: one["accuracy"] for one in raced}
    laps: dict[str, int] = {}
    for one in raced:
        laps[one["student"]] = laps.get(one["student"], 0) + 1
    score = record.get("scores", {}).get("student", validation.get(name))
    files = record["export"]["files"] if record.get("handed", "student") == "student" else []
    handed = [
        CandidateFacts(
            model=name, role="student", size=size, precision=PRECISIONS[file["format"]], latency_ms=file["latency_ms"],
            bytes=file["bytes"], accuracy=file["accuracy"], validation=score,
            rounds=laps.get(name, 0), chosen=True,
        )
        for file in files
        if file["format"] in PRECISIONS
    ]  # fmt: skip
    timed = [CandidateFacts.model_validate(one) for one in record.get("candidates", [])]
    others = [
        one.model_copy(update={"validation": validation.get(one.model), "rounds": laps.get(one.model, 0)})
        for one in timed
        if one.model != name
    ]
    return [*handed, *others]


def _forecast(found: RunCollection) -> ScalingForecast | None:
    """What a longer schedule is likely to gain, by the pilot; None without one."""
    if "pilot" not in found.runs:
        return None
    runs = [found.runs[name] for name in ("pilot", "student")]
    rows = [run.facts.of("distilled") for run in runs]
    teacher, data = runs[1].facts.of("teacher"), runs[1].facts.data
    if not all(rows) or data is None:
        return None
    errors = [1 - (row[0].mean("accuracy") or 0) for row in rows]
    steps = [run.recipe.steps or 0 for run in runs]
    known = 1 - (teacher[0].mean("accuracy") or 0) if teacher else None
    return ScalingForecast(
        pilot_steps=steps[0], steps=steps[1], pilot_error=errors[0], error=errors[1], teacher_error=known,
        examples=data.examples,
    )  # fmt: skip
