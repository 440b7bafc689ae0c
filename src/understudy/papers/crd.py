"""CIFAR-100 in "Contrastive Representation Distillation" (Tian, Krishnan and Isola, 2020)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.config.options import AugmentationConfig, OptimizerConfig
from understudy.config.places import shown
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.config.yaml import checked
from understudy.errors import UnderstudyError
from understudy.papers.crd_pairs import PAIRS, Pair, find_pair
from understudy.papers.experiment import Bench, Comparison, Experiment, Line, accuracy, correlation
from understudy.papers.sharing import Job, complete

if TYPE_CHECKING:
    from understudy.runs.run import Run

PAPER = "Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020"
SEEDS = 3
EPOCHS = 240
TEACHER_EPOCHS = 40  # minimum, even if the students' schedule is shortened
_SLIM = ("mobilenet", "shufflenet")  # depthwise convolutions need a lower learning rate
_CIFAR100 = ("CIFAR-100", 50_000, 100)  # training images and classes


def one_pair(bench: Bench, usual: str) -> Pair:
    """The pair of an experiment that takes only one."""
    if len(bench.pairs) > 1:
        raise UnderstudyError(f"this experiment takes one --pair, not {len(bench.pairs)}; run it once per pair")
    return find_pair(bench.pairs[0] if bench.pairs else usual)


def seeds_of(bench: Bench) -> int:
    return bench.seeds or SEEDS


def epochs_of(bench: Bench) -> int:
    return bench.epochs(EPOCHS, quick=EPOCHS // 60)


def schedule(bench: Bench, net: str, epochs: int, **changes: Any) -> dict[str, Any]:
    """The paper's recipe: SGD, batch size 64, three step decays of the learning rate, crops and flips."""
    rate = 0.01 if net.startswith(_SLIM) else 0.05
    return {
        "data": bench.data or "cifar100", "data_root": bench.data_root, "size": bench.size, "epochs": epochs,
        "batch_size": 64, "augmentation": AugmentationConfig(translate=4, flip=True),
        "optimizer": OptimizerConfig(
            name="sgd", lr=rate, schedule="step", weight_decay=5e-4, decay_norms=True, warmup=0
        ), **changes,
    }  # fmt: skip


def teacher_job(bench: Bench, net: str, seeds: int = 1, **changes: Any) -> Job:
    """Teachers trained on the labels, differing in their initial weights."""
    epochs = max(epochs_of(bench), 0 if bench.quick else TEACHER_EPOCHS)
    values = schedule(bench, net, epochs, model=f"cifar:{net}", seeds=seeds, **changes)
    return Job(f"teacher-{net}" + f"-x{seeds}" * (seeds > 1), checked(TrainRecipe, values, "train"))


def teacher(bench: Bench, net: str, seeds: int = 1, **changes: Any) -> Run:
    job = teacher_job(bench, net, seeds, **changes)
    return bench.ensure(job.name, job.recipe)


def distilled(bench: Bench, net: str, source: Path, methods: tuple[str, ...], **changes: Any) -> DistillRecipe:
    """A student distilled by several methods, and trained alone unless `baseline` is False."""
    values = {"student": f"cifar:{net}", "teacher": (str(source),), "method": methods, "seeds": seeds_of(bench)}
    return checked(DistillRecipe, schedule(bench, net, epochs_of(bench), **values, **changes), "distill")


def cifar100(bench: Bench) -> Comparison:
    """`understudy reproduce crd-cifar100 [--pair TEACHER:STUDENT ...] [--method NAME ...] [--epochs 24] [--seeds 1]`

    A run for each teacher, and for each pair and method; that of KD also has the student alone and is always made.
    Expect: every method above the student alone, CRD+KD at least as good as KD, CRD's correlation difference smallest.
    """
    pairs = [find_pair(text) for text in bench.pairs] or list(PAIRS.values())
    chosen = {pair.name: tuple(dict.fromkeys(("kd", *(bench.methods or pair.methods)))) for pair in pairs}
    jobs: dict[str, Job] = {}
    for pair in pairs:
        source = teacher_job(bench, pair.teacher)
        jobs.setdefault(source.name, source)
        for method in chosen[pair.name]:
            recipe = distilled(
                bench, pair.student, bench.place(source.name), (pair.options(method),), baseline=method == "kd"
            )
            _check(recipe)
            jobs[_cell(pair, method)] = Job(_cell(pair, method), recipe, after=source.name)
    runs = complete(bench, list(jobs.values()))
    lines: list[Line] = []
    for pair in pairs:
        if plain := runs.get(_cell(pair, "kd")):
            lines.append(_line(pair, "teacher", accuracy(plain.facts, "teacher")))
            lines.append(_line(pair, "alone", accuracy(plain.facts, "alone"), correlation(plain.facts, "alone")))
        for method in chosen[pair.name]:
            if run := runs.get(_cell(pair, method)):
                lines.append(_line(pair, method, accuracy(run.facts, "distilled"), correlation(run.facts, "distilled")))
    notes = [*ran(runs.values()), _CORRELATION]
    if any("crd" in method.split("+") for methods in chosen.values() for method in methods):
        notes.append(_DIFFERS)
    if missing := len(jobs) - len(runs):
        notes.append(f"{missing} of {len(jobs)} runs are left to other processes; repeat the command for the rest.")
    return Comparison(("teacher:student", "method", "paper", "here", "correlation Δ"), lines, notes)


def _cell(pair: Pair, method: str) -> str:
    """The name of a method's run, in characters that are safe in a file's name."""
    return f"{pair.folder}-{re.sub(r'[^A-Za-z0-9+._-]+', '-', method)}"


def _check(recipe: DistillRecipe) -> None:
    """Say what is wrong with a method before anything is trained."""
    from understudy.pipeline.loss import methods_of

    methods_of(recipe)


def _line(pair: Pair, method: str, *here: Any) -> Line:
    published = f"{pair.paper[method]:.2f}%" if method in pair.paper else ""
    return (pair.name, method, published, *here, *[""] * (2 - len(here)))


_CORRELATION = (
    "Correlation Δ: mean difference between the teacher's and the student's correlations of the logits of two "
    "classes; the paper shows it as heatmaps."
)
_DIFFERS = (
    "Unless its options say otherwise, CRD takes all samples as negatives if there are at most four times 16,384, else "
    "16,384 of them as in the paper, and temperature 0.07."
)


def ran(runs: Iterable[Run], full: int = EPOCHS, data: tuple[str, int, int] | None = _CIFAR100) -> list[str]:
    """Notes on the seeds, the epochs and the data of finished runs, as their recipes and facts have them.

    Args:
        full: epochs of the paper's students.
        data: the paper's set, by name, training images and classes; None to say nothing of it.
    """
    runs = list(runs)
    students = [run for run in runs if isinstance(run.recipe, DistillRecipe)]
    teachers = [run.recipe for run in runs if not isinstance(run.recipe, DistillRecipe)]
    notes = []
    if students:
        recipes = [run.recipe for run in students]
        epochs = _listed(recipe.epochs for recipe in recipes)
        number = _listed(recipe.seeds for recipe in recipes)
        note = f"{number} seed{'s' * (number != '1')}, {epochs} epoch{'s' * (epochs != '1')}"
        note += ", as in the paper." if epochs == str(full) else f" of the paper's {full}."
        if teachers and _listed(recipe.epochs for recipe in teachers) != epochs:
            note += f" The teachers are trained for {_listed(recipe.epochs for recipe in teachers)}."
        notes.append(note)
    if data is None:
        return notes
    if found := next((run.facts.data for run in students or runs if run.facts.data), None):
        images, classes = found.train_examples or 0, len(found.classes)
        what = f"{shown(found.name)}: {images:,} training samples of {classes} classes"
        same = (images, classes) == data[1:]
        notes.append(f"{what}, as in {data[0]}." if same else f"{what}; {data[0]} has {data[1]:,} of {data[2]}.")
    return notes


def _listed(values: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(set(values))))


def ensemble(bench: Bench) -> Comparison:
    """`understudy reproduce crd-ensemble [--pair TEACHER:STUDENT] [--epochs 24] [--data SET]`

    Expect: students of three teachers above those of one, and CRD at least as good as KD (the paper's figure 3).
    """
    pair = one_pair(bench, "wrn_40_2:wrn_16_2")
    source = teacher(bench, pair.teacher, seeds=3)
    methods = ("kd", "crd", "crd+kd")
    lines: list[Line] = []
    runs = [source]
    for number, teachers in ((1, source.path / "models" / "model-0.safetensors"), (3, source.path)):
        run = bench.ensure(f"{pair.folder}-of-{number}", distilled(bench, pair.student, teachers, methods))
        accuracies = [accuracy(run.facts, "distilled", name=name) for name in methods]
        lines.append((str(number), accuracy(run.facts, "teacher"), accuracy(run.facts, "alone"), *accuracies))
        runs.append(run)
    notes = [f"{pair.name}; the teachers differ in their initial weights.", *ran(runs)]
    return Comparison(("teachers", "ensemble", "student alone", *methods), lines, notes)


TAKES = frozenset({"pairs", "chosen_epochs", "seeds", "data", "size"})
EXPERIMENTS = (
    Experiment(
        "crd-cifar100", "13 teacher-student pairs with 15 methods; some of them with --pair and --method", PAPER,
        cifar100, takes=TAKES | {"methods"},
    ),
    Experiment("crd-ensemble", "one teacher versus three, with KD, CRD and both", PAPER, ensemble, takes=TAKES),
)  # fmt: skip
