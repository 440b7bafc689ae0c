"""The verbs in Python: the same names, defaults and checks as on the command line."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from understudy.data import Source, Splits, Unreadable, open_source, stratified_split
from understudy.data.batches import Batches
from understudy.data.decode import decode
from understudy.data.views import place
from understudy.errors import UnderstudyError, nearest
from understudy.evaluation import confusion, fit_class_bias, flops, logits_of, parameters, score_models
from understudy.evaluation.bias import parse_bias
from understudy.models import Network, fold, load_network
from understudy.performing import perform, to_score
from understudy.preparing import (
    Given,
    check_recipe,
    join,
    make_fabric,
    networks_of,
    prepare_data,
    prepare_members,
    prepare_teachers,
    wanted,
    weights_of,
)
from understudy.recipe import COMPARED, AnyRecipe, DistillRecipe, Optimizer, TrainRecipe, Views, checked
from understudy.reporting import RunFacts
from understudy.runs import Run, find_run, fresh_run
from understudy.teachers import check_classes
from understudy.training import Loop
from understudy.training.progress import clock


def train(data: object, model: str | nn.Module, *, run: str | Path | None = None, **fields: Any) -> Run:
    """Train a teacher or a baseline.

    Args:
        data: whatever `open_source` opens: a name, a path, a map-style Dataset, a pair of arrays or a dict of paired
            ones.
        model: a model's name, a module that maps (B, *shape) to logits, or a run folder or weights file to begin from.
        run: the run folder; a new one under runs/ where unset.
        **fields: any field of `TrainRecipe`, those of the optimiser and the views by their own names (`lr=0.1`,
            `jitter=2`); also `overwrite=True` to replace what the folder holds.

    Raises:
        UnderstudyError: a wrong field, or data, model and fields that do not fit each other.
    """
    overwrite = fields.pop("overwrite", False)
    names = {"data": _name(data), "model": _model_name(model)}
    recipe = checked(TrainRecipe, names | _grouped(fields), "train")
    given = Given(
        data=None if isinstance(data, (str, Path)) else data,
        model=model if isinstance(model, nn.Module) else None,
        trust_code=True,
    )
    return _start(recipe, run, given, overwrite)


def distill(
    data: object,
    teacher: str | Path | nn.Module | Sequence[str | Path | nn.Module],
    student: str | Path | nn.Module,
    *,
    transfer_set: object | None = None,
    run: str | Path | None = None,
    **fields: Any,
) -> Run:
    """Train a student on its teachers' soft targets, beside the same student trained alone.

    Args:
        data: as for `train`.
        teacher: run folders, weights files or modules; several make an ensemble.
        student: a model's name or a module.
        transfer_set: samples to distil on in place of the data's training part.
        **fields: any field of `DistillRecipe`.
    """
    overwrite = fields.pop("overwrite", False)
    teachers = [teacher] if isinstance(teacher, (str, Path, nn.Module)) else list(teacher)
    modules = tuple(t for t in teachers if isinstance(t, nn.Module))
    if modules and len(modules) != len(teachers):
        raise UnderstudyError("teachers are either modules or files; give all of one kind")
    names = {
        "data": _name(data),
        "teacher": [type(t).__name__ if isinstance(t, nn.Module) else str(t) for t in teachers],
        "student": _model_name(student),
        "transfer_set": None if transfer_set is None else _name(transfer_set),
    }
    recipe = checked(DistillRecipe, names | _grouped(fields), "distill")
    given = Given(
        data=None if isinstance(data, (str, Path)) else data,
        model=student if isinstance(student, nn.Module) else None,
        teachers=modules,
        transfer_set=None if isinstance(transfer_set, (str, Path)) else transfer_set,
        trust_code=True,
    )
    return _start(recipe, run, given, overwrite)


def compare(
    data: object,
    teacher: str | Path | nn.Module | Sequence[str | Path | nn.Module],
    student: str | Path | nn.Module,
    methods: Sequence[str] = COMPARED,
    *,
    seeds: int = 3,
    **fields: Any,
) -> Run:
    """`distill` by several methods, and alone, on the same batches: one run, its page a comparison.

    Args:
        methods: as in "crd" or "crd+kd"; `understudy methods` lists them.
        seeds: initialisations of each, the same ones for every method.
        **fields: any field of `distill`.
    """
    return distill(data, teacher, student, method=tuple(methods), seeds=seeds, **fields)


def run_recipe(
    recipe: AnyRecipe,
    *,
    run: Path | None = None,
    overwrite: bool = False,
    trust_code: bool = False,
    command: Sequence[str] = (),
) -> Run:
    """Start a run from a recipe."""
    return _start(recipe, run, Given(trust_code=trust_code), overwrite, command)


def ensure_run(recipe: AnyRecipe, run: Path) -> Run:
    """A finished run of this recipe: the one in the folder, that one resumed, or a new one."""
    found = Run(run)
    if found.exists and found.recipe == recipe:
        return found if found.finished else perform(recipe, found, Given())
    return run_recipe(recipe, run=run)


def resume(run: str | Path, *, trust_code: bool = False) -> Run:
    """Go on with an unfinished run from its newest whole checkpoint."""
    found = find_run(Path(run))
    if found.finished:
        raise UnderstudyError(f"{run} is finished; its report is {found.report}")
    done = perform(found.recipe, found, Given(trust_code=trust_code))
    from understudy import speaking  # it stands on this module

    return speaking.finish(done) if speaking.is_speech(done) else done


def evaluate(
    target: str | Path,
    data: object,
    *,
    teacher: Sequence[str] = (),
    split: str = "test",
    class_bias: Sequence[str] = (),
    data_root: str | None = None,
    download: bool = False,
    size: int | None = None,
    pair: Mapping[str, str] | None = None,
) -> RunFacts:
    """Score a run's networks, or one weights file, on a data set: accuracy, calibration, agreement.

    Args:
        split: "test", "train" or "validation": the data's own, or what the run kept of the training part.
        teacher: run folders or weights files to compare the predictions with.
        class_bias: logits to raise first, as "3=+3.5".
        pair: the same samples in other modalities, by name. A set that holds one alone is taken for what is seen.
    """
    root = Path(data_root) if data_root else None
    splits = open_source(data, root=root, download=download, size=size, pairs=pair)
    if splits.train.targets is None:
        raise UnderstudyError(f"{splits.train.name} has no labels to score against; see its classes with predict")
    source = _part(splits, split, Path(target))
    untrained = Run(Path(target)).record.get("untrained_heads", []) if Path(target).is_dir() else []
    networks, cautions = to_score(networks_of(target), None, untrained)
    if not networks:
        raise UnderstudyError(cautions[0])
    for name, network in networks.items():
        check_classes(network, name, source.classes)
        if class_bias:
            network.set_class_bias(parse_bias(class_bias, network.classes))
    teachers = [load_network(file) for name in teacher for file in weights_of(name)]
    for network in teachers:
        check_classes(network, f"teacher {network.spec}", source.classes)
    panel = join(teachers, DistillRecipe(), torch.device("cpu")) if teachers else None
    facts = score_models(source, networks, panel, teachers, None)
    facts["data"]["split"] = split
    return RunFacts.from_json({"name": Path(target).name, "kind": "evaluate", "cautions": cautions} | facts)


def _part(splits: Splits, split: str, target: Path) -> Source:
    """The part of the data to score on."""
    parts = {"train": splits.train, "test": splits.test, "validation": splits.validation}
    if split not in parts:
        raise UnderstudyError(f"there is no split {split!r}{nearest(split, parts)}")
    if split == "validation" and splits.validation is None and Run(target).exists:
        recipe = Run(target).recipe
        if recipe.validation:
            return splits.train.subset(stratified_split(splits.train, recipe.validation, recipe.seed)[1])
    source = parts[split]
    if source is None:
        others = " or ".join(f"--split {name}" for name, part in parts.items() if part is not None)
        raise UnderstudyError(f"{splits.train.name} has no {split} part; pass {others}")
    return source


@dataclass(frozen=True)
class Prediction:
    """What a network says about one image: classes with their probabilities, the likeliest first."""

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None


def predict(target: str | Path, images: Sequence[str | Path], *, top: int = 5) -> list[Prediction]:
    """Classify image files, or the images of folders, with a run's first network or a weights file.

    An image that cannot be read gives a prediction without classes whose `error` says why.
    """
    network = fold(next(iter(networks_of(target).values())))
    shape = network.contract.source_shape
    channels, height, _ = shape if len(shape) == 3 else (0, 0, 0)
    if not channels:
        raise UnderstudyError(f"{target} reads vectors; predict takes images")
    said = []
    for path in _image_files(images):
        try:
            image = decode(io.BytesIO(path.read_bytes()))
        except (Unreadable, OSError) as error:
            said.append(Prediction(str(path), (), (), str(error)))
            continue
        square = place(image.convert("L" if channels == 1 else "RGB"), height, None, 1.0)
        pixels = torch.from_numpy(np.array(square)).float().div(255)
        pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
        with torch.inference_mode():
            share, index = network(pixels[None]).logits[0].softmax(0).sort(descending=True)
        kept = slice(0, min(top, len(index)))
        names = tuple(network.classes[i] for i in index[kept].tolist())
        said.append(Prediction(str(path), names, tuple(share[kept].tolist())))
    return said


def with_class_priors(run: Run, name: str) -> Tensor:
    """(C, C) test confusion counts of one network with its class biases fitted on the whole training part.

    Of its labels only the classes' shares are used: the mean prediction is brought to them.
    """
    material = prepare_data(run.recipe, Given())
    network = run.network(name)
    said = logits_of(network, material.labelled, device=torch.device("cpu"))
    assert said.targets is not None
    counts = said.targets.bincount(minlength=len(network.classes)).double()
    return _confusion(network, material.test, fit_class_bias(said.logits, counts / counts.sum()))


def confusion_of(run: Run, name: str) -> Tensor:
    """(C, C) test confusion counts of one network of a run."""
    network = run.network(name)
    return _confusion(network, prepare_data(run.recipe, Given()).test, torch.zeros(len(network.classes)))


def dry_run(recipe: AnyRecipe, *, trust_code: bool = False) -> dict[str, object]:
    """What a run would be: samples, steps, parameters, FLOPs, and the time that a few measured steps foretell."""
    given = Given(trust_code=trust_code)
    check_recipe(recipe, given)
    material = prepare_data(recipe, given)
    networks, _ = prepare_teachers(recipe, given, material)
    fabric = make_fabric(recipe.model_copy(update={"devices": 1, "nodes": 1}))
    panel = join(list(networks.values()), recipe, fabric.device) if isinstance(recipe, DistillRecipe) else None
    members = prepare_members(recipe, given, material, list(networks.values()))
    student = members[-1].network
    facts: dict[str, object] = {
        "training samples": f"{len(material.train):,}",
        "test samples": f"{len(material.test):,}" if material.test is not None else "none",
        "students": len(members),
        "parameters": f"{parameters(student):,}",
        "FLOPs an image": f"{flops(student):,}",
    }
    if networks:
        facts["teachers' parameters"] = f"{sum(parameters(n) for n in networks.values()):,}"
    if panel is not None:
        panel.watch(wanted(members))
    batches = Batches(material.train, material.plan, recipe.batch_size, recipe.seed, fabric.device)
    loop = Loop(fabric, members, batches, recipe, panel, watcher=_Stopwatch())
    facts["steps"] = f"{loop.steps:,}"
    try:
        loop.run()
    except _Enough as measured:
        facts["time"] = f"about {clock(measured.seconds_a_step * loop.steps)}"
    return facts


class _Enough(Exception):
    """Enough steps were timed."""

    seconds_a_step: float


class _Stopwatch:
    """Times the steps after the first three, for three seconds or to the end, and stops the loop."""

    def begin(self, step: int, steps: int) -> None:
        self.last = steps

    def step(self, step: int, samples: int, rows: Any) -> None:
        now = time.perf_counter()
        if step == min(3, self.last - 1):
            self.start, self.first = now, step
        elif step > 3 and (now - self.start > 3 or step == self.last):
            enough = _Enough()
            enough.seconds_a_step = (now - self.start) / (step - self.first)
            raise enough

    def epoch(self, rows: list[dict[str, Any]]) -> None: ...

    def end(self) -> None: ...


def _start(
    recipe: AnyRecipe, run: str | Path | None, given: Given, overwrite: bool, command: Sequence[str] = ()
) -> Run:
    check_recipe(recipe, given)
    folder = Path(run) if run is not None else fresh_run(recipe)
    found = Run(folder)
    if int(os.environ.get("RANK", "0")) > 0:  # torchrun's first process takes the folder
        return perform(recipe, found, given, command)
    found.open(recipe, overwrite=overwrite)
    try:
        return perform(recipe, found, given, command)
    except UnderstudyError:
        found.leave()
        raise


def _grouped(fields: dict[str, Any]) -> dict[str, Any]:
    """Put the optimiser's and the views' fields into their groups."""
    groups = {"optimizer": set(Optimizer.model_fields), "views": set(Views.model_fields)}
    grouped = {name: value for name, value in fields.items() if not any(name in own for own in groups.values())}
    for group, own in groups.items():
        values = {name: value for name, value in fields.items() if name in own}
        if group in fields and not isinstance(fields[group], str):
            grouped[group] = fields[group]
        elif values:
            grouped[group] = values
    return grouped


def _model_name(model: str | Path | nn.Module) -> str:
    return type(model).__name__ if isinstance(model, nn.Module) else str(model)


def _name(data: object) -> str:
    if isinstance(data, (str, Path)):
        return str(data)
    return data.name if isinstance(data, Source) else type(data).__name__


def _image_files(images: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for image in images:
        path = Path(image)
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.exists():
            files.append(path)
        else:
            raise UnderstudyError(f"there is no image or folder {image}")
    if not files:
        raise UnderstudyError("there is no image to look at; name image files or folders that hold some")
    return files


def _confusion(network: Network, test: Source | None, bias: Tensor) -> Tensor:
    assert test is not None
    assert test.targets is not None
    said = logits_of(network, test, device=torch.device("cpu"))
    return confusion(said.logits + bias, test.targets)
