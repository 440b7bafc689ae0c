"""`evaluate`: how good a run's networks, or one weights file, are on a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from understudy.data import Source, Splits, open_source, squashed, stratified_split
from understudy.errors import UnderstudyError, nearest
from understudy.evaluation import confusion, fit_class_bias, logits_of, score_models
from understudy.evaluation.bias import parse_bias
from understudy.machine import device_of
from understudy.material import Given, chosen, prepare_data
from understudy.models import Network
from understudy.panels import load_teacher
from understudy.performing import to_score
from understudy.preparing import join, networks_of, weights_of
from understudy.recipe import DistillRecipe
from understudy.reporting import RunFacts
from understudy.runs import Run
from understudy.teachers import check_classes


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
) -> RunFacts:
    """Score a run's networks, or one weights file, on a data set: accuracy, calibration, agreement.

    Args:
        split: "test", "train" or "validation": the data's own, or what the run kept of the training part.
        teacher: run folders or weights files to compare the predictions with.
        class_bias: logits to raise first, as "3=+3.5".
        pair: the same samples in other modalities, by name. A set that holds one alone is taken for what is seen.
        trust_code: whether the function that a scored network was made by (pkg.mod:fn) may be imported.
    """
    root = Path(data_root) if data_root else None
    splits = open_source(data, root=root, download=download, size=size, pairs=pair)
    if splits.train.targets is None:
        raise UnderstudyError(f"{splits.train.name} has no labels to score against; see its classes with predict")
    source = _part(splits, split, Path(target))
    untrained = Run(Path(target)).record.get("untrained_heads", []) if Path(target).is_dir() else []
    networks, cautions = to_score(networks_of(target, trust_code=trust_code), None, untrained)
    if not networks:
        raise UnderstudyError(cautions[0])
    own = {network.contract.shape[1] for network in networks.values() if network.contract.fit == "whole"}
    if size is None and len(own) == 1:  # one that learnt from whole images is shown such
        source = squashed(source, own.pop())
    for name, network in networks.items():
        check_classes(network, name, source.classes)
        if class_bias:
            network.set_class_bias(parse_bias(class_bias, network.classes))
    teachers = [load_teacher(file) for name in teacher for file in weights_of(name)]
    for network in teachers:
        check_classes(network, f"teacher {network.spec}", source.classes)
    device = device_of()
    panel = join(teachers, DistillRecipe(), device) if teachers else None
    facts = score_models(source, networks, panel, teachers, None, device=device)
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
            train = chosen(recipe, splits.train)
            return train.subset(stratified_split(train, recipe.validation, recipe.seed)[1])
    source = parts[split]
    if source is None:
        others = " or ".join(f"--split {name}" for name, part in parts.items() if part is not None)
        raise UnderstudyError(f"{splits.train.name} has no {split} part; pass {others}")
    return source


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


def _confusion(network: Network, test: Source | None, bias: Tensor) -> Tensor:
    assert test is not None
    assert test.targets is not None
    said = logits_of(network, test, device=torch.device("cpu"))
    return confusion(said.logits + bias, test.targets)
