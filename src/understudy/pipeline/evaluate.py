"""A trained run measured: facts in `evaluation.json`, from which `report.html` is made."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from understudy.config.yaml import to_yaml
from understudy.data import Source
from understudy.data.cache import decoded
from understudy.data.skipped import count_skip_reasons, describe_skipped
from understudy.evaluation import score_models
from understudy.evaluation.facts import RunFacts
from understudy.models import Network
from understudy.pipeline.base import Pipeline
from understudy.pipeline.device import device_of, workers_of
from understudy.pipeline.modality import can_read
from understudy.reporting import render
from understudy.runs.run import Run
from understudy.terminal import Terminal
from understudy.training.timing import ms_per_image


def evaluate_run(pipeline: Pipeline[Any], run: Run) -> RunFacts:
    """Score the models of a run on the test part, as they were saved; write `evaluation.json` and `report.html`."""
    recipe, data, record = pipeline.recipe, pipeline.data, run.record
    test = data.test if data.test is not None and data.test.targets is not None else None
    models = {name: pipeline.load(file) for name, file in run.models.items()}
    models, cautions = scorable(models, test, record.get("untrained_heads", []))
    notes = [
        *record.get("notes", ()),
        *record.get("init_from", ()),
        *(one["sentence"] for one in record.get("frozen", {}).values()),
        *record.get("batch_norm", {}).values(),
        *record.get("calibration", {}).values(),
        *_preferred_sizes(record.get("sizes", {}), recipe.augmentation.crop_size),
        *data.notes,
    ]
    skipped: dict[str, dict[str, str]] = data.skipped | record.get("skipped", {})
    facts: dict[str, Any] = {
        "name": run.path.name,
        "kind": recipe.kind,
        "created": record.get("created"),
        "duration_seconds": run.duration,
        "hardware": hardware(),
        "command": record.get("command") or [f"understudy {recipe.kind} --config recipe.yaml"],
        "versions": record.get("versions", {}),
        "recipe_yaml": to_yaml(run.recipe),
        "cautions": [*record.get("cautions", ()), *cautions],
        "curves": _curves(run),
    }
    if test is None:
        notes.append(f"{data.labeled.name} has no labeled test part, so nothing was scored")
    else:
        device, undecoded = device_of(recipe), dict[str, str]()
        test = decoded(test, workers_of(recipe), undecoded)  # once for all models
        facts |= score_models(
            test, models, pipeline.evaluation_teacher(device), list(pipeline.teachers.values()),
            pipeline.gallery_temperature, ms_per_image(record.get("cost", {})), device, run.path, undecoded,
        )  # fmt: skip
        if undecoded:
            Terminal().say(describe_skipped("test, while decoding", undecoded), "yellow")
            skipped["test"] = skipped["test"] | undecoded
            run.note(skipped=skipped)
        facts["data"] |= {"train_examples": len(data.labeled if pipeline.teachers else data.train)}
        if pipeline.teachers:
            facts["data"]["transfer_examples"] = len(data.train)
    for part, found in skipped.items():
        notes += [f"{n:,} skipped in the {part} part: {why}" for why, n in count_skip_reasons(found).items()]
    checked = pipeline.complete(run, RunFacts.from_json(facts | {"notes": notes}))
    run.write_page(checked, render(checked, run.path, recipe))
    return checked


def scorable(
    models: Mapping[str, Network], test: Source | None, untrained: Sequence[str]
) -> tuple[dict[str, Network], list[str]]:
    """The models whose predictions mean something on a source, and why the others' do not."""
    cautions = []
    if untrained:
        cautions.append(
            f"The head of {', '.join(untrained)} was not trained, as no term of the loss reads the logits, so its "
            "predictions are not scored. Measure the representation with understudy probe, or train a head: understudy "
            "train DATA --model RUN --freeze."
        )
    blind = [name for name, network in models.items() if test is not None and not can_read(test, network)]
    if blind and test is not None:
        modality = models[blind[0]].contract.modality
        cautions.append(f"{test.name} has no modality {modality}, which {', '.join(blind)} would read: not scored.")
    scored = {name: network for name, network in models.items() if name not in {*untrained, *blind}}
    return {name: network for name, network in scored.items() if network.classes}, cautions


def hardware() -> str:
    """The name of the processor, or of the accelerator."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"


def _preferred_sizes(tried: Mapping[str, Mapping[str, float]], trained: int | None) -> list[str]:
    """The input size with the best validation accuracy of each model; of equals, that of the training."""
    notes = []
    for name, sizes in tried.items():
        best = max(sizes, key=lambda side: (sizes[side], side == str(trained)))
        listed = ", ".join(f"{accuracy:.2%} at {side}" for side, accuracy in sizes.items())
        notes.append(f"{name}: best validation accuracy at {best} pixels ({listed})")
    return notes


def _curves(run: Run) -> list[dict[str, Any]]:
    series: dict[str, dict[str, list[Any]]] = {}
    for row in run.epochs():
        if row["part"] == "train":
            curve = series.setdefault(row["member"], {"epoch": [], "loss": [], "accuracy": [], "agreement": []})
            for key in curve:
                curve[key].append(row.get(key))
    curves = []
    for member, values in series.items():
        name, _, number = member.rpartition("-")
        kept = {key: column for key, column in values.items() if any(v is not None for v in column)}
        if member in run.record.get("untrained_heads", []):
            kept = {key: kept[key] for key in ("epoch", "loss")}
        role, _, method = name.partition("-")
        curves.append({"name": method or role, "role": role, "seed": int(number)} | kept)
    return curves
