"""Linear probes of representations: transfer and cross-modal transfer (Tian, Krishnan and Isola 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.errors import UnderstudyError
from understudy.papers.crd import PAPER, TAKES, distilled, epochs_of, one_pair, ran, schedule, seeds_of, teacher
from understudy.papers.experiment import Bench, Comparison, Experiment, Measured

if TYPE_CHECKING:
    from understudy.data import Splits
    from understudy.evaluation.facts import ProbedSet

METHODS = ("kd", "crd", "crd+kd")
_USUAL = "wrn_40_2:wrn_16_2"
_TINY = "tiny-imagenet-200"
_PUBLISHED: Mapping[str, Mapping[str, float]] = {  # table 4: CIFAR-100's nets, probed on other sets
    "stl10": {"teacher": 68.6, "alone": 69.7, "kd": 70.9, "crd": 71.6, "crd+kd": 72.2},
    _TINY: {"teacher": 31.5, "alone": 33.7, "kd": 33.9, "crd": 35.6, "crd+kd": 35.5},
}


@dataclass(frozen=True)
class _ProbeData:
    """Data for linear probes."""

    title: str
    data: Splits
    classes: tuple[str, ...] = ()  # all if empty
    paper: Mapping[str, float] = field(default_factory=dict)  # published results, by row name


def transfer(bench: Bench) -> Comparison:
    """`understudy reproduce crd-transfer [--data SET --held-out N] [--probe SET ...] [--pair TEACHER:STUDENT]`

    Expect: students above their teacher, CRD above KD (the paper's table 4).
    """
    from understudy.verbs.probe import probe

    pair = one_pair(bench, _USUAL)
    held, places = _places(bench, published=pair.name == _USUAL)  # fail before hours of training
    teacher_run = teacher(bench, pair.teacher, omit_classes=held)
    run = bench.ensure(pair.folder, distilled(bench, pair.student, teacher_run.path, METHODS, omit_classes=held))
    found: list[ProbedSet] = []
    for place in places:
        found += probe(run.path, place.data, teacher=[teacher_run.path], only_classes=place.classes)
    groups = {"teacher": "teacher", "alone": "alone"} | {name: f"distilled-{name}" for name in METHODS}
    columns = ["net"]
    lines: list[list[str | Measured]] = [[name] for name in groups]
    for place, one in zip(places, found, strict=True):
        if place.paper:
            columns.append(f"{place.title}, paper")
            for name, line in zip(groups, lines, strict=True):
                line.append(f"{place.paper[name]:.1f}%")
        columns.append(f"{place.title}, here" if place.paper else place.title)
        for group, line in zip(groups.values(), lines, strict=True):
            line.append(_accuracy(one, group))
    notes = [f"{pair.name}. Accuracy of linear probes of the frozen penultimate layers.", *ran([teacher_run, run])]
    if held:
        notes.append(f"No network was trained on {', '.join(held)}.")
    return Comparison(tuple(columns), [tuple(line) for line in lines], notes)


def _places(bench: Bench, published: bool) -> tuple[tuple[str, ...], list[_ProbeData]]:
    """The held-out classes, and the data sets to probe."""
    size = bench.size or (None if bench.data else 32)  # CIFAR-100's size by default
    held: tuple[str, ...] = ()
    places = []
    if bench.held_out:
        own = bench.opened(bench.data or "cifar100", bench.size)
        held = held_out(own, bench.held_out)
        places.append(_ProbeData(f"{len(held)} held-out classes", own, held))
    for name in bench.probes or (() if held else _papers(bench)):
        title = Path(name).name
        paper = _PUBLISHED.get(title, {}) if published and not bench.data and not held else {}
        places.append(_ProbeData(title, bench.opened(name, size), paper=paper))
    return held, places


def _papers(bench: Bench) -> tuple[str, ...]:
    home = bench.home / _TINY
    if not home.exists():
        raise UnderstudyError(
            f"TinyImageNet is not in {home}; put it there, with train/ and val/ subfolders of class folders, or choose "
            "what to probe: --probe stl10, or classes held out from training: --held-out 10"
        )
    return ("stl10", str(home))


def held_out(splits: Splits, selection: Sequence[str]) -> tuple[str, ...]:
    """Select classes by name, or by their number, evenly spaced in the data set's order."""
    from understudy.data import only_classes

    train = splits.train
    known = len(train.classes)
    number = int(selection[0]) if len(selection) == 1 and selection[0].isdecimal() else len(set(selection))
    if not 2 <= number <= known - 2:
        raise UnderstudyError(
            f"--held-out is {' '.join(selection)}, but {train.name} has {known} classes; hold out at least two, by "
            "number or by name, and leave at least two"
        )
    if len(selection) == 1:
        return tuple(train.classes[i * known // number] for i in range(number))
    only_classes(train, selection)  # raises on unknown names
    return tuple(selection)


def cross_modal(bench: Bench) -> Comparison:
    """`understudy reproduce crd-cross-modal [--pair TEACHER:STUDENT] [--epochs 24] [--data SET]`

    A teacher trained on luminance with labels; students of chrominance without labels. Expect: CRD far above random
    weights (the paper's section 4.3).
    """
    from understudy.models import build
    from understudy.verbs.probe import placed, probe

    pair = one_pair(bench, "resnet20:resnet20")
    data: dict[str, Any] = {"data": bench.data or "stl10"}
    luminance = teacher(bench, pair.teacher, modality="luminance", **data)
    student, epochs = f"cifar:{pair.student}", epochs_of(bench)
    alone = schedule(bench, pair.student, epochs, model=student, modality="chrominance", seeds=seeds_of(bench), **data)
    color = bench.ensure(f"{pair.student}-on-labels", TrainRecipe(**alone))
    methods = {"crd": "crd:exclude=sample", "kd": "kd"}  # neither uses labels
    values = schedule(
        bench, pair.student, epochs, **data, transfer_set=None if bench.data else "stl10-unlabeled",
        teacher=(str(luminance.path),), student=student, teacher_modality="luminance",
        student_modality="chrominance", method=tuple(methods.values()), hard_weight=0.0, baseline=False,
        seeds=seeds_of(bench),
    )  # fmt: skip
    unlabeled = bench.ensure(f"{pair.folder}-unlabeled", DistillRecipe(**values))
    networks = {"teacher-0": luminance.network("model-0")}
    for seed in range(seeds_of(bench)):
        own = networks[f"supervised-{seed}"] = color.network(f"model-{seed}")
        networks |= {f"{name}-{seed}": unlabeled.network(f"distilled-{text}-{seed}") for name, text in methods.items()}
        networks[f"random-{seed}"] = build(own.spec, own.contract, seed=seed)
    (found,) = probe(placed(networks), data["data"], data_root=bench.data_root, size=bench.size)
    rows = {
        "teacher": ("teacher", "luminance", "yes"),
        "supervised": ("student, trained on labels", "chrominance", "yes"),
        "crd": ("student, CRD only", "chrominance", "no"),
        "kd": ("student, KD only", "chrominance", "no"),
        "random": ("student, random weights", "chrominance", "no"),
    }
    lines = [(*row, _accuracy(found, group)) for group, row in rows.items()]
    learned_from = f"the training part of {Path(bench.data).name}" if bench.data else "the unlabeled part of STL-10"
    notes = [
        f"{pair.name}. Accuracy of linear probes of the frozen penultimate layers, on {Path(data['data']).name}. The "
        f"students without labels learn from {learned_from}.",
        *ran([luminance, unlabeled]),
        "The first two networks were trained on the labels that the probes are fitted to.",
    ]
    return Comparison(("net", "input", "trained on labels", "probe"), lines, notes)


def _accuracy(found: ProbedSet, group: str) -> Measured:
    """Probe accuracy in percent, per seed."""
    return Measured(tuple(100 * probe.accuracy for probe in found.groups[group]), digits=2, unit="%")


EXPERIMENTS = (
    Experiment(
        "crd-transfer", "linear probes of students on other data sets or held-out classes", PAPER, transfer,
        takes=TAKES | {"held_out", "probes"},
    ),
    Experiment(
        "crd-cross-modal", "distillation from luminance to chrominance, without labels", PAPER, cross_modal, takes=TAKES
    ),
)  # fmt: skip
