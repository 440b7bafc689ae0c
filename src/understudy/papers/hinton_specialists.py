"""Specialists in "Distilling the Knowledge in a Neural Network" (Hinton, Vinyals and Dean, 2015), on a smaller set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError, nearest
from understudy.papers.experiment import Bench, Comparison, Experiment, Measured
from understudy.recipe import DistillRecipe, Optimizer, TrainRecipe, Views
from understudy.recipe_text import read_yaml

if TYPE_CHECKING:
    from understudy.panels import PanelFolder

PAPER = "Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 5"
SEEDS = 3
Line = tuple[str | Measured, ...]


@dataclass(frozen=True)
class Plan:
    """What is trained on a set: two sizes of generalist, and of each students of the same size.

    Attributes:
        nets: the sizes.
        clusters: how many groups; a quarter of the classes where None.
        epochs: of generalists, specialists and students.
    """

    nets: tuple[str, ...]
    epochs: int
    quick_epochs: int
    optimizer: Optimizer
    views: Views = Views()  # noqa: RUF009  (frozen)
    clusters: int | None = None
    batch_size: int = 128


_MNIST = Plan(
    nets=("mlp:30x1", "mlp:300x1"), epochs=20, quick_epochs=2, clusters=4,
    optimizer=Optimizer(lr=2e-3, schedule="linear"), views=Views(jitter=2, flip=False),
)  # fmt: skip
_IMAGES = Plan(
    nets=("cnn:8-16-32", "cnn:16-32-64"), epochs=24, quick_epochs=3, optimizer=Optimizer(lr=2e-3),
)  # fmt: skip
PLANS: Mapping[str, Plan] = {"mnist": _MNIST}


def plan_of(data: str) -> Plan:
    return PLANS.get(data, _IMAGES)


def specialists(bench: Bench) -> Comparison:
    """`understudy reproduce hinton-specialists [--data SET] [--size 32] [--groups FILE] [--quick]`

    Expect: the panel above the generalist, most given the group; the student distilled from the panel above the one
    distilled from the generalist.
    """
    data = bench.data or "cifar100"
    plan = plan_of(data)
    planted = planted_groups(bench, data) if bench.groups else None
    lines: list[Line] = []
    for net in plan.nets:
        found = [one_seed(bench, data, plan, net, seed, planted) for seed in range(SEEDS)]
        columns = zip(*(one for one in found), strict=True)
        lines.append((net, *(Measured(values, 2, unit) for values, unit in zip(columns, _UNITS, strict=True))))
        if planted is None:
            lines[-1] = (*lines[-1][:-1], "")
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
        f"{SEEDS} seeds, each with a generalist, specialists and students of its own; {epochs} epochs each, a "
        "specialist's of twice its group's samples, at the generalist's learning rate. Accuracy on the test part, "
        "which chose nothing.",
        "Given the group: over the samples of each group's classes, the answer chosen among these (the paper's "
        "conditional accuracy).",
    ]


def epochs_of(bench: Bench, plan: Plan) -> int:
    return max(1, round(bench.epochs(plan.epochs, plan.quick_epochs) * bench.scale))


def one_seed(
    bench: Bench, data: str, plan: Plan, net: str, seed: int, planted: list[tuple[str, ...]] | None
) -> tuple[float, ...]:
    """What came of one generalist: see `_COLUMNS`."""
    name = f"{net.partition(':')[2]}-{seed}"
    values: dict[str, Any] = {
        "data": data, "data_root": bench.data_root, "size": bench.size, "batch_size": plan.batch_size,
        "optimizer": plan.optimizer, "views": plan.views, "seed": seed, "epochs": epochs_of(bench, plan),
    }  # fmt: skip
    generalist = bench.ensure(f"generalist-{name}", TrainRecipe(**values, model=net))
    folder = panel(plan, values, generalist.path)
    students = [
        bench.ensure(
            f"{of}-student-{name}", DistillRecipe(**values, teacher=(str(teacher),), student=net, baseline=False)
        )
        for of, teacher in (("generalist", generalist.path), ("panel", folder.path))
    ]
    from understudy.panel_report import facts_of

    facts = facts_of(folder)
    before, after = facts.row("generalist"), facts.row("panel")
    taught = [run.facts.of("distilled")[0].seeds[0].accuracy for run in students]
    agreement = rand_index(folder, planted) if planted else 0.0
    shares = (before.accuracy, after.accuracy, before.conditional, after.conditional, *taught)
    return (*(100 * share for share in shares), agreement)


def panel(plan: Plan, values: Mapping[str, Any], generalist: Path) -> PanelFolder:
    """The specialists of a generalist, trained as it was and for as long.

    At a tenth of its rate for half as long, a panel gains a fifth of what it gains so, or less: a net that has learnt
    all its classes has to leave where it is to learn a few of them better.
    """
    from understudy.models import load_network
    from understudy.preparing import weights_of
    from understudy.specialising import specialists as make

    classes = len(load_network(weights_of(str(generalist))[0]).classes)
    return make(generalist=generalist, clusters=plan.clusters or max(2, classes // 4), **values)


def rand_index(folder: PanelFolder, planted: list[tuple[str, ...]]) -> float:
    """How far the groups that were found agree with the planted ones."""
    from understudy.evaluation.grouping import adjusted_rand

    manifest = folder.manifest
    return adjusted_rand(manifest.index, [tuple(manifest.classes.index(name) for name in one) for one in planted])


def planted_groups(bench: Bench, data: str) -> list[tuple[str, ...]]:
    """Groups of classes that are known, from a YAML file of `name: [class, class, ...]`.

    Raises:
        UnderstudyError: it is not such a file, or does not hold every class of the data once.
    """
    from understudy.data import open_source

    assert bench.groups is not None
    listed = list(read_yaml(Path(bench.groups)).values())
    if not all(isinstance(one, list) and one for one in listed):
        raise UnderstudyError(f"{bench.groups} must hold a list of classes for each group, as in 'dogs: [beagle, pug]'")
    groups = [tuple(str(name) for name in one) for one in listed]
    root = Path(bench.data_root) if bench.data_root else None
    classes = open_source(data, root=root, size=bench.size).train.classes
    named = [name for one in groups for name in one]
    for name in named:
        if name not in classes:
            raise UnderstudyError(
                f"{bench.groups} names the class {name!r}, which {data} lacks{nearest(name, classes)}"
            )
    if sorted(named) != sorted(classes):
        raise UnderstudyError(f"{bench.groups} must name each of the {len(classes)} classes of {data} once")
    return groups


EXPERIMENTS = (
    Experiment(
        name="hinton-specialists",
        summary="a generalist, its specialists, and one net distilled from all; on any labelled set, with --data",
        paper=PAPER,
        takes=frozenset({"data", "size", "scale", "groups"}),
        compare=specialists,
    ),
)
