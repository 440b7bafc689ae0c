"""Specialists in "Distilling the Knowledge in a Neural Network" (Hinton, Vinyals and Dean, 2015), on smaller data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.config.options import AugmentationConfig, OptimizerConfig
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.yaml import read_yaml
from understudy.errors import UnderstudyError, nearest
from understudy.files import path_of
from understudy.papers.experiment import Bench, Comparison, Experiment, Line, Measured

if TYPE_CHECKING:
    from understudy.runs.collection import RunCollection

PAPER = "Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 5"
SEEDS = 3


@dataclass(frozen=True)
class Plan:
    """Settings for a data set: generalists of several sizes, with students of the same size."""

    nets: tuple[str, ...]  # model specs
    epochs: int  # for generalists, specialists and students
    quick_epochs: int
    optimizer: OptimizerConfig
    augmentation: AugmentationConfig = AugmentationConfig()  # noqa: RUF009  (frozen)
    clusters: int | None = None  # number of groups; by default a quarter of the classes
    batch_size: int = 128


_MNIST = Plan(
    nets=("mlp:30x1", "mlp:300x1"), epochs=20, quick_epochs=2, clusters=4,
    optimizer=OptimizerConfig(lr=2e-3, schedule="linear"), augmentation=AugmentationConfig(translate=2, flip=False),
)  # fmt: skip
_IMAGES = Plan(
    nets=("cnn:8-16-32", "cnn:16-32-64"), epochs=24, quick_epochs=3, optimizer=OptimizerConfig(lr=2e-3),
)  # fmt: skip
PLANS: Mapping[str, Plan] = {"mnist": _MNIST}


def plan_of(data: str) -> Plan:
    return PLANS.get(data, _IMAGES)


def specialists(bench: Bench) -> Comparison:
    """`understudy reproduce hinton-specialists [--data SET] [--size 32] [--groups FILE] [--quick]`

    Expect: the panel above the generalist, in conditional accuracy most of all; the student distilled from the panel
    above the one distilled from the generalist.
    """
    data = bench.data or "cifar100"
    plan = plan_of(data)
    planted = planted_groups(bench, data) if bench.groups else None
    lines: list[Line] = []
    for net in plan.nets:
        found = [one_seed(bench, data, plan, net, seed, planted) for seed in range(SEEDS)]
        units = _UNITS if planted else _UNITS[:-1]
        cells = [Measured(values, 2, unit) for values, unit in zip(zip(*found, strict=True), units, strict=False)]
        lines.append((net, *cells, *([] if planted else [""])))
    lines.append(("JFT, 61 specialists of 300 classes", *_JFT))
    return Comparison(_COLUMNS, lines, notes(bench, plan))


_COLUMNS = (
    "generalist", "accuracy", "with specialists", "given the group", "with specialists, given the group",
    "same net, distilled from the generalist", "distilled from the panel", "groups, adjusted Rand index",
)  # fmt: skip
_UNITS = ("%", "%", "%", "%", "%", "%", "")
_JFT = ("25.0%", "26.1%", "43.1%", "45.9%", "", "", "")


def notes(bench: Bench, plan: Plan) -> list[str]:
    epochs = epochs_of(bench, plan)
    return [
        f"{SEEDS} seeds, each with its own generalist, specialists and students; {epochs} epochs each, where a "
        "specialist's epoch is twice its group's samples, at the generalist's learning rate. Accuracy on the test "
        "part, which was not used for any selection.",
        "Given the group: over the samples of each group's classes, with predictions restricted to these (the paper's "
        "conditional accuracy).",
    ]


def epochs_of(bench: Bench, plan: Plan) -> int:
    return bench.epochs(plan.epochs, plan.quick_epochs)


def one_seed(
    bench: Bench, data: str, plan: Plan, net: str, seed: int, planted: list[tuple[str, ...]] | None
) -> tuple[float, ...]:
    """Results of one generalist, as in `_COLUMNS`."""
    name = f"{net.partition(':')[2]}-{seed}"
    values: dict[str, Any] = {
        "data": data, "data_root": bench.data_root, "size": bench.size, "batch_size": plan.batch_size,
        "optimizer": plan.optimizer, "augmentation": plan.augmentation, "seed": seed, "epochs": epochs_of(bench, plan),
    }  # fmt: skip
    generalist = bench.ensure(f"generalist-{name}", TrainRecipe(**values, model=net))
    folder = panel(plan, values, generalist.path)
    accuracies = []
    for of, teacher in (("generalist", generalist.path), ("panel", folder.path)):
        recipe = DistillRecipe(**values, teacher=(str(teacher),), student=net, baseline=False)
        student = bench.ensure(f"{of}-student-{name}", recipe)
        accuracies.append(student.facts.of("distilled")[0].seeds[0].accuracy)
    before, after = folder.facts.row("generalist"), folder.facts.row("panel")
    agreement = rand_index(folder, planted) if planted else 0.0
    shares = (before.accuracy, after.accuracy, before.conditional, after.conditional, *accuracies)
    return (*(100 * share for share in shares), agreement)


def panel(plan: Plan, values: Mapping[str, Any], generalist: Path) -> RunCollection:
    """Specialists trained with the generalist's learning rate and number of epochs.

    With a tenth of the learning rate and half of the epochs, a panel gains at most a fifth as much.
    """
    from understudy.models import load_network
    from understudy.pipeline.weights import weights_of
    from understudy.verbs.specialists import specialists as train_specialists

    classes = len(load_network(weights_of(generalist)[0]).classes)
    return train_specialists(generalist=generalist, clusters=plan.clusters or max(2, classes // 4), **values)


def rand_index(folder: RunCollection, planted: list[tuple[str, ...]]) -> float:
    """Adjusted Rand index of the groups found and the planted ones."""
    from understudy.panels.grouping import adjusted_rand
    from understudy.pipeline.panel_folder import read_manifest

    manifest = read_manifest(folder.path)
    return adjusted_rand(manifest.index, [tuple(manifest.classes.index(name) for name in one) for one in planted])


def planted_groups(bench: Bench, data: str) -> list[tuple[str, ...]]:
    """Read a known partition of the classes into groups from a YAML file of `name: [class, class, ...]`."""
    assert bench.groups is not None
    listed = list(read_yaml(path_of(bench.groups, "the file of groups")).values())
    if not all(isinstance(one, list) and one for one in listed):
        raise UnderstudyError(f"{bench.groups} must hold a list of classes for each group, as in 'dogs: [beagle, pug]'")
    groups = [tuple(str(name) for name in one) for one in listed]
    classes = bench.opened(data, bench.size).train.classes
    named = [name for one in groups for name in one]
    for name in named:
        if name not in classes:
            raise UnderstudyError(
                f"{bench.groups} has the class {name!r}, which is not in {data}{nearest(name, classes)}"
            )
    if sorted(named) != sorted(classes):
        raise UnderstudyError(f"{bench.groups} must list each of the {len(classes)} classes of {data} exactly once")
    return groups


EXPERIMENTS = (
    Experiment(
        "hinton-specialists",
        "a generalist, its specialists, and a net distilled from them; any labeled data set with --data",
        PAPER, specialists, takes=frozenset({"data", "size", "chosen_epochs", "groups"}),
    ),
)  # fmt: skip
