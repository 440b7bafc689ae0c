"""`evaluate`: how good a run's networks, or one weights file, are on a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from understudy.data import Source, Splits, open_source, resize_square, stratified_split
from understudy.data.skipped import describe_skipped
from understudy.errors import UnderstudyError, nearest
from understudy.evaluation import confusion, fit_class_bias, parse_bias, predict_logits, score_models
from understudy.evaluation.facts import RunFacts
from understudy.files import path_of, write_whole
from understudy.models import Network
from understudy.pipeline.base import as_teacher
from understudy.pipeline.device import device_of
from understudy.pipeline.evaluate import hardware, scorable
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.modality import contract_of
from understudy.pipeline.run import versions
from understudy.pipeline.run_data import in_subset
from understudy.pipeline.weights import networks_of, teachers_of
from understudy.reporting import render
from understudy.runs.folder import EVALUATION, REPORT
from understudy.runs.run import Run
from understudy.teachers import check_classes, combine, match_classes
from understudy.verbs.arguments import page_folder


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
    trust_code: bool = False,
    out: str | Path | None = None,
) -> RunFacts:
    """Score a run's networks, or one weights file, on a data set: accuracy, calibration, agreement.

    Args:
        target: a run folder or a weights file.
        data: whatever `open_source` opens; labeled.
        teacher: run folders, weights files or models with their weights, to compare the predictions with; several make
            an ensemble.
        split: "test", "train" or "validation": the data's own, or what the run held out from the training part.
        class_bias: logits to raise first, as "3=+3.5".
        data_root, download, size: as for `open_source`.
        pair: the same samples in other modalities, by name.
        trust_code: whether the function that made a scored network (pkg.mod:fn) may be imported.
        out: a folder for `evaluation.json` and a page, `report.html`; by default none is written.

    Raises:
        UnderstudyError: no labels, no such part, or networks of other classes.
    """
    target = path_of(target, "the run folder or weights file")
    folder = None if out is None else page_folder(out)
    root = None if data_root is None else path_of(data_root, "the data root")
    splits = open_source(data, root=root, download=download, size=size, pairs=pair)
    if splits.train.targets is None:
        raise UnderstudyError(f"{splits.train.name} has no labels to score against; use predict")
    source = _part(splits, split, target)
    untrained = Run(target).record.get("untrained_heads", []) if target.is_dir() else []
    networks, cautions = scorable(networks_of(target, trust_code=trust_code), None, untrained)
    if not networks:
        raise UnderstudyError(cautions[0])
    sizes = {network.contract.shape[1] for network in networks.values() if network.contract.crop_mode == "squash"}
    if size is None and len(sizes) == 1:  # one trained on resized images is tested on such
        source = resize_square(source, sizes.pop())
    for name, network in networks.items():
        check_classes(network, name, source.classes)
        if class_bias:
            network.set_class_bias(parse_bias(class_bias, network.classes))
    contract = partial(contract_of, source)
    teachers = [network for name in teacher for network in teachers_of(name, contract, trust_code=trust_code).values()]
    for network in teachers:
        match_classes(network, f"teacher {network.spec}", source.classes)
    device = device_of()
    frozen = [as_teacher(network, device) for network in teachers]
    together = combine(frozen) if frozen else None
    skipped = dict(source.skipped)
    facts = score_models(source, networks, together, teachers, None, device=device, skipped=skipped)
    facts["data"]["split"] = split
    cautions += [*source.notes, *([describe_skipped(split, skipped)] if skipped else [])]
    found = RunFacts.from_json({"name": target.name, "kind": "evaluate", "cautions": cautions} | facts)
    if folder is not None:
        found = found.model_copy(update={"hardware": hardware(), "versions": versions()})
        write_whole(folder / EVALUATION, found.model_dump_json() + "\n")
        write_whole(folder / REPORT, render(found, folder))
    return found


def _part(splits: Splits, split: str, target: Path) -> Source:
    """The part of the data to score on."""
    parts = {"train": splits.train, "test": splits.test, "validation": splits.validation}
    if split not in parts:
        raise UnderstudyError(f"there is no split {split!r}{nearest(str(split), parts)}")
    if split == "validation" and splits.validation is None and Run(target).exists:
        recipe = Run(target).located_recipe()
        if recipe.validation:
            train = in_subset(recipe, splits.train)
            return train.subset(stratified_split(train, recipe.validation, recipe.seed)[1])
    source = parts[split]
    if source is None:
        others = " or ".join(f"--split {name}" for name, part in parts.items() if part is not None)
        raise UnderstudyError(f"{splits.train.name} has no {split} part; pass {others}")
    return source


def with_class_priors(run: Run, name: str) -> Tensor:
    """(C, C) test confusion counts of one network with its class biases fitted on the whole training part.

    Only the classes' shares are used of the labels: the mean prediction is matched to them.
    """
    data = pipeline_of(run.located_recipe()).data
    network = run.network(name)
    predictions = predict_logits(network, data.labeled, device=torch.device("cpu"))
    assert predictions.targets is not None
    counts = predictions.targets.bincount(minlength=len(network.classes)).double()
    return _confusion(network, data.test, fit_class_bias(predictions.logits, counts / counts.sum()))


def confusion_of(run: Run, name: str) -> Tensor:
    """(C, C) test confusion counts of one network of a run."""
    network = run.network(name)
    return _confusion(network, pipeline_of(run.located_recipe()).data.test, torch.zeros(len(network.classes)))


def _confusion(network: Network, test: Source | None, bias: Tensor) -> Tensor:
    assert test is not None
    assert test.targets is not None
    predictions = predict_logits(network, test, device=torch.device("cpu"))
    return confusion(predictions.logits + bias, test.targets)
