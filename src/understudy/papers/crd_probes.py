"""Representations judged by linear probes: what transfers, and across modalities (Tian, Krishnan and Isola 2020)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError
from understudy.papers.crd import PAPER, SEEDS, epochs_of, one_pair, schedule, scheduled, students, teacher
from understudy.papers.experiment import Bench, Comparison, Experiment, Measured
from understudy.recipe import DistillRecipe, TrainRecipe

if TYPE_CHECKING:
    from understudy.data import Splits
    from understudy.probing import ProbedSet

METHODS = ("kd", "crd", "crd+kd")
_USUAL = "wrn_40_2:wrn_16_2"
_TINY = "tiny-imagenet-200"
_PUBLISHED: Mapping[str, Mapping[str, float]] = {  # table 4: CIFAR-100's nets, probed on other sets
    "stl10": {"teacher": 68.6, "alone": 69.7, "kd": 70.9, "crd": 71.6, "crd+kd": 72.2},
    _TINY: {"teacher": 31.5, "alone": 33.7, "kd": 33.9, "crd": 35.6, "crd+kd": 35.5},
}


@dataclass(frozen=True)
class _Where:
    """What representations are probed on.

    Attributes:
        classes: of the data; all where empty.
        paper: what the paper found there, by the names of the table's rows.
    """

    title: str
    data: Splits
    classes: tuple[str, ...] = ()
    paper: Mapping[str, float] = field(default_factory=dict)


def transfer(bench: Bench) -> Comparison:
    """`understudy reproduce crd-transfer [--data SET --held-out N] [--probe SET ...] [--pair TEACHER:STUDENT]`

    Expect: students probe better than their teacher, CRD's better than KD's (the paper's table 4).
    """
    from understudy import probing

    pair = one_pair(bench, _USUAL)
    held, places = _places(bench, published=pair.name == _USUAL)  # opened before hours of training
    taught = teacher(bench, pair.teacher, omit_classes=held)
    run = students(bench, pair.folder, pair.student, taught.path, METHODS, omit_classes=held)
    found: list[ProbedSet] = []
    for place in places:
        found += probing.probe(run.path, place.data, teacher=[taught.path], only_classes=place.classes)
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
    notes = [f"{pair.name}. Accuracy of linear probes of the frozen penultimate layers.", scheduled(bench)]
    if held:
        notes.append(f"Nobody was trained on {', '.join(held)}.")
    return Comparison(tuple(columns), [tuple(line) for line in lines], notes)


def _places(bench: Bench, published: bool) -> tuple[tuple[str, ...], list[_Where]]:
    """The classes that are held out, and all that is probed."""
    size = bench.size or (None if bench.data else 32)  # as small as CIFAR-100's, unless the caller's data are other
    held: tuple[str, ...] = ()
    places = []
    if bench.held_out:
        own = bench.opened(bench.data or "cifar100", bench.size)
        held = held_out(own, bench.held_out)
        places.append(_Where(f"{len(held)} classes never seen", own, held))
    for name in bench.probes or (() if held else _papers(bench)):
        title = Path(name).name
        paper = _PUBLISHED.get(title, {}) if published and not bench.data and not held else {}
        places.append(_Where(title, bench.opened(name, size), paper=paper))
    return held, places


def _papers(bench: Bench) -> tuple[str, ...]:
    home = Path(bench.data_root or os.environ.get("UNDERSTUDY_DATA") or "data") / _TINY
    if not home.exists():
        raise UnderstudyError(
            f"TinyImageNet was looked for in {home}; put it there, with train/ and val/ of class folders, or say what "
            "to probe: --probe stl10, or classes that nobody is trained on: --held-out 10"
        )
    return ("stl10", str(home))


def held_out(splits: Splits, asked: Sequence[str]) -> tuple[str, ...]:
    """The classes that are meant by a number, evenly spread over the set's own order, or by their names.

    Raises:
        UnderstudyError: there is no such class, or too few would be left to learn from or to tell apart.
    """
    from understudy.data import only_classes

    train = splits.train
    known = len(train.classes)
    number = int(asked[0]) if len(asked) == 1 and asked[0].isdecimal() else len(set(asked))
    if not 2 <= number <= known - 2:
        raise UnderstudyError(
            f"--held-out is {' '.join(asked)}, and {train.name} has {known} classes: hold out two or more, by number "
            "or by name, and leave two or more to learn from"
        )
    if len(asked) == 1:
        return tuple(train.classes[i * known // number] for i in range(number))
    only_classes(train, asked)  # complains of a name that there is not
    return tuple(asked)


def cross_modal(bench: Bench) -> Comparison:
    """`understudy reproduce crd-cross-modal [--pair TEACHER:STUDENT] [--scale 0.1] [--data SET]`

    A teacher of luminance, trained on labels; students of chrominance, which have none. Expect: CRD's far above random
    weights (section 4.3 of the paper).
    """
    from understudy import probing
    from understudy.models import build

    pair = one_pair(bench, "resnet20:resnet20")
    data: dict[str, Any] = {"data": bench.data or "stl10"}
    sight = teacher(bench, pair.teacher, sees="luminance", **data)
    alone = schedule(
        bench, pair.student, epochs_of(bench), model=f"cifar:{pair.student}", sees="chrominance", seeds=SEEDS, **data
    )
    colour = bench.ensure(f"{pair.student}-on-labels", TrainRecipe(**alone))
    methods = {"crd": "crd:exclude=sample", "kd": "kd"}  # neither looks at a label
    values = schedule(
        bench, pair.student, epochs_of(bench), **data, transfer_set=None if bench.data else "stl10-unlabelled",
        teacher=(str(sight.path),), student=f"cifar:{pair.student}", teacher_sees="luminance",
        student_sees="chrominance", method=tuple(methods.values()), hard_weight=0.0, baseline=False, seeds=SEEDS,
    )  # fmt: skip
    taught = bench.ensure(f"{pair.folder}-unlabelled", DistillRecipe(**values))
    networks = {"teacher-0": sight.network("model-0")}
    for seed in range(SEEDS):
        own = networks[f"supervised-{seed}"] = colour.network(f"model-{seed}")
        networks |= {f"{name}-{seed}": taught.network(f"distilled-{text}-{seed}") for name, text in methods.items()}
        networks[f"random-{seed}"] = build(own.spec, own.contract, seed=seed)
    root = bench.data_root
    (found,) = probing.probe(probing.placed(networks), data["data"], data_root=root, size=bench.size)
    rows = {
        "teacher": ("teacher", "luminance", "yes"),
        "supervised": ("student, trained on labels", "chrominance", "yes"),
        "crd": ("student, by CRD alone", "chrominance", "no"),
        "kd": ("student, by KD alone", "chrominance", "no"),
        "random": ("student, random weights", "chrominance", "no"),
    }
    lines = [(*row, _accuracy(found, group)) for group, row in rows.items()]
    learnt_from = f"the training part of {Path(bench.data).name}" if bench.data else "the unlabelled part of STL-10"
    notes = [
        f"{pair.name}. Accuracy of linear probes of the frozen penultimate layers, on {Path(data['data']).name}. The "
        f"students without labels learn from {learnt_from}.",
        scheduled(bench),
        "The first two nets were trained on the labels that their probes are fitted to.",
    ]
    return Comparison(("net", "sees", "saw labels", "probe"), lines, notes)


def _accuracy(found: ProbedSet, group: str) -> Measured:
    """The probes' accuracy of one kind of network in percent, seed by seed."""
    return Measured(tuple(100 * probe.accuracy for probe in found.groups[group]), digits=2, unit="%")


_of_crd = partial(Experiment, paper=PAPER)
EXPERIMENTS = (
    _of_crd(
        name="crd-transfer",
        summary="students' representations, probed on other sets or on classes never seen",
        takes=frozenset({"pairs", "scale", "data", "size", "held_out", "probes"}),
        compare=transfer,
    ),
    _of_crd(
        name="crd-cross-modal",
        summary="luminance teaches chrominance, without labels",
        takes=frozenset({"pairs", "scale", "data", "size"}),
        compare=cross_modal,
    ),
)
