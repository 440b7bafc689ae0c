"""A recipe performed: data, teachers and cohort through the loop into a run folder, evaluated, on a page."""

from __future__ import annotations

import copy
import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from understudy import __version__
from understudy.composing import teaches_head
from understudy.contracts import can_see
from understudy.data import Source, fraction
from understudy.data.batches import count_reasons
from understudy.errors import UnderstudyError
from understudy.evaluation import accuracy_by_size, fit_class_bias, fit_scale, logits_of, score_models
from understudy.evaluation.bias import parse_bias, parse_priors
from understudy.files import sha256, write_whole
from understudy.machine import device_of, make_fabric
from understudy.material import Given, Material, make_batches, prepare_data
from understudy.models import InputContract, Network, build, load_network, read_weights
from understudy.preparing import join, prepare_members, prepare_teachers, student_contract, wanted
from understudy.recipe import AnyRecipe, DistillRecipe, SpecialistRecipe, TrainRecipe
from understudy.recipe_text import to_yaml
from understudy.reporting import RunFacts, render
from understudy.runs import Run
from understudy.training import Loop, Member, launch
from understudy.training.laps import milliseconds_an_image
from understudy.training.progress import Metrics, Screen, Watchers

_CALIBRATED = 10_000  # samples
_PARTS = ("torch", "torchvision", "timm", "lightning-fabric", "numpy")


def perform(recipe: AnyRecipe, run: Run, given: Given, command: Sequence[str] = ()) -> Run:
    """Train the recipe's cohort in a run folder, from its newest checkpoint if it has one; evaluate; report.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint was written.
        Diverged: a loss became NaN or infinite.
        UnderstudyError: something the caller can mend.
    """
    if "created" not in run.record:
        run.note(created=datetime.now(UTC).isoformat(timespec="seconds"), command=list(command), versions=versions())
    fabric = make_fabric(recipe)
    if recipe.devices * recipe.nodes > 1:
        launch(fabric, partial(_train, recipe=recipe, run=run, given=given))
    else:
        _train(fabric, recipe, run, given)
    if fabric.global_rank == 0:
        evaluate_run(recipe, run, given)
        run.note(finished=True)
    return run


def versions() -> dict[str, str]:
    own = {"understudy": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in _PARTS}


def hardware() -> str:
    """The processor, or the accelerator, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _train(fabric: Fabric, recipe: AnyRecipe, run: Run, given: Given) -> None:
    material = prepare_data(recipe, given)
    networks, files = prepare_teachers(recipe, given, material)
    if networks or files:
        _check_teachers(run, files, fabric)
    teacher = join(list(networks.values()), recipe, fabric.device) if networks else None
    members = prepare_members(recipe, given, material, list(networks.values()))
    console = Console()
    if fabric.global_rank == 0:
        for line in dict.fromkeys(member.network.began for member in members):
            console.print(line, highlight=False) if line else None
    if teacher is not None:
        teacher.watch(wanted(members))
    batches = make_batches(recipe, material, fabric, workers_of(recipe))
    watcher = None
    if fabric.global_rank == 0:
        title = run.path.name if isinstance(recipe, SpecialistRecipe) else recipe.kind  # several may run at a time
        watcher = Watchers(Metrics(run.path / "metrics.jsonl", recipe.tracker), Screen(title, console))
    loop = Loop(
        fabric, members, batches, recipe, teacher,
        _validator(material.validation, fabric.device), run.path / "checkpoints", watcher, str(run.path),
    )  # fmt: skip
    started = time.monotonic()
    try:
        loop.run()
    finally:
        if fabric.global_rank == 0:
            run.note(seconds=run.duration + time.monotonic() - started)
    if fabric.global_rank == 0:
        labelled = material.train.targets is not None
        untrained = [m.name for m in members if not teaches_head(m.learner.objective, labelled=labelled)]
        run.note(began=list(dict.fromkeys(filter(None, (m.network.began for m in members)))), untrained_heads=untrained)
        run.note(cost=loop.laps.read(), set_aside=dict(material.train.set_aside) | batches.set_aside)
        _save_models(recipe, run, members, material, fabric.device)


def workers_of(recipe: AnyRecipe) -> int:
    return min(os.cpu_count() or 1, 8) if recipe.workers is None else recipe.workers


def _check_teachers(run: Run, files: list[str], fabric: Fabric) -> None:
    """Teachers are kept by reference and hash: a resumed run must find the same ones."""
    if fabric.global_rank != 0:
        return
    found = {file: sha256(Path(file)) for file in files}
    known = run.record.get("teachers")
    if known is not None and known != found:
        changed = next((file for file in known if known[file] != found.get(file)), "one")
        raise UnderstudyError(f"teacher {changed} is not the one this run began with; put it back or start a new run")
    run.note(teachers=found)


def _validator(source: Source | None, device: torch.device) -> Any:
    if source is None:
        return None

    def validate(member: Member) -> float:
        said = logits_of(member.network, source, device=device)
        assert said.targets is not None
        return float((said.logits.argmax(1) == said.targets).float().mean())

    return validate


def _save_models(recipe: AnyRecipe, run: Run, members: list[Member], material: Material, device: torch.device) -> None:
    """Write each member's result: the last epoch's weights, or the best on the validation part."""
    for member in members:
        network = member.network
        if member.best is not None:
            network.load_state_dict(member.best[1])
        network.watch(()).eval()
        if isinstance(recipe, TrainRecipe):
            _size(recipe, run, member.name, network, material, device)
            if recipe.calibrate:
                _calibrate(network, material.validation or material.train, recipe.seed, device)
        if recipe.class_bias:
            network.set_class_bias(parse_bias(recipe.class_bias, network.classes))
        if recipe.class_priors:
            said = logits_of(network, material.labelled, device=device)
            network.set_class_bias(fit_class_bias(said.logits, parse_priors(recipe.class_priors, network.classes)))
        network.save(run.path / "models" / f"{member.name}.safetensors")


def _size(recipe: TrainRecipe, run: Run, name: str, network: Network, material: Material, device: torch.device) -> None:
    """Have a trained network read images of the test size, and note which size the validation part prefers."""
    if recipe.views.window and material.validation is not None:
        tried = accuracy_by_size(network, material.validation, recipe.views.window, device=device)
        run.note(sizes=run.record.get("sizes", {}) | {name: tried})
    if recipe.test_size:
        network.feed(recipe.test_size)


def _calibrate(network: Network, source: Source, seed: int, device: torch.device) -> None:
    """Have a network be as sure as it is right, by no more samples than one number needs."""
    few = source.subset(fraction(source, min(1.0, _CALIBRATED / len(source)), seed))
    said = logits_of(network, few, device=device)
    assert said.targets is not None
    network.scale_logits(fit_scale(said.logits, said.targets))


def _sizes(tried: dict[str, dict[str, float]], trained: int | None) -> list[str]:
    """What is said of the sizes that validation parts prefer; of equals, that of the training."""
    notes = []
    for name, of in tried.items():
        best = max(of, key=lambda side: (of[side], side == str(trained)))
        listed = ", ".join(f"{share:.2%} at {side}" for side, share in of.items())
        notes.append(f"{name}: the validation part prefers images of {best} pixels ({listed})")
    return notes


def evaluate_run(recipe: AnyRecipe, run: Run, given: Given) -> RunFacts:
    """Score every model of a run on the test part, and write `evaluation.json` and `report.html`."""
    material = prepare_data(recipe, given)
    teachers, _ = prepare_teachers(recipe, given, material)
    networks = list(teachers.values())
    models = {name: _load(path, recipe, given, material, networks) for name, path in run.models.items()}
    record = run.record
    test = material.test if material.test is not None and material.test.targets is not None else None
    models, reasons = to_score(models, test, record.get("untrained_heads", []))
    device, taught = device_of(recipe), None
    if networks and (test is None or all(can_see(test, network) for network in networks)):
        taught = join(networks, recipe, device) if isinstance(recipe, DistillRecipe) else None
    facts: dict[str, Any] = {
        "name": run.path.name,
        "kind": recipe.kind,
        "created": record.get("created"),
        "duration_seconds": run.duration,
        "hardware": hardware(),
        "command": record.get("command") or [f"understudy {recipe.kind} --config recipe.yaml"],
        "versions": record.get("versions", {}),
        "recipe_yaml": to_yaml(recipe),
        "notes": [
            *record.get("told", ()),
            *record.get("began", ()),
            *_sizes(record.get("sizes", {}), recipe.views.window),
            *(f"{n} set aside: {why}" for why, n in count_reasons(record.get("set_aside", {})).items()),
        ],
        "cautions": reasons,
        "curves": _curves(run),
    }
    if test is not None:
        facts |= score_models(
            test, models, taught, networks, getattr(recipe, "temperature", None),
            milliseconds_an_image(record.get("cost", {})), device,
        )  # fmt: skip
        facts["data"] |= {"train_examples": len(material.labelled)}
        if networks:
            facts["data"]["transfer_examples"] = len(material.train)
    else:
        facts["notes"].append(f"{material.labelled.name} has no test part with labels, so nothing was scored")
    write_whole(run.path / "evaluation.json", json.dumps(facts) + "\n")
    checked = RunFacts.from_json(facts)
    write_whole(run.report, render(checked))
    return checked


def to_score(
    models: dict[str, Network], test: Source | None, untrained: Sequence[str]
) -> tuple[dict[str, Network], list[str]]:
    """The models whose answers mean something on a source, and why the others' do not."""
    reasons = []
    if untrained:
        reasons.append(
            f"The head of {', '.join(untrained)} was not trained, as nothing that was learnt reads the logits, so its "
            "answers are not scored. Measure the representation with understudy probe, or train a head: understudy "
            "train DATA --model RUN --freeze."
        )
    blind = [name for name, network in models.items() if test is not None and not can_see(test, network)]
    if blind and test is not None:
        seen = models[blind[0]].contract.modality
        reasons.append(f"{test.name} has no {seen}, which {', '.join(blind)} would have to see: it is not scored.")
    return {name: network for name, network in models.items() if name not in {*untrained, *blind}}, reasons


def _load(path: Path, recipe: AnyRecipe, given: Given, material: Material, teachers: Sequence[Network]) -> Network:
    if given.model is None:
        return load_network(path, trust_code=given.trust_code).eval()
    network = build(copy.deepcopy(given.model), student_contract(recipe, material, teachers))
    state, facts = read_weights(path)
    network.load_state_dict(state)
    network.contract = InputContract.from_json(facts["contract"])
    return network.eval()


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
