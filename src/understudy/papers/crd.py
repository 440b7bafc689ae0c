"""CIFAR-100 and ImageNet in "Contrastive Representation Distillation" (Tian, Krishnan and Isola, 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.config.options import AugmentationConfig, OptimizerConfig
from understudy.config.recipe import DistillRecipe, TrainRecipe
from understudy.errors import UnderstudyError, nearest
from understudy.papers.experiment import Bench, Comparison, Experiment, Line, accuracy, correlation

if TYPE_CHECKING:
    from understudy.runs.run import Run

PAPER = "Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020"
SEEDS = 3
EPOCHS, IMAGENET_EPOCHS = 240, 100
TEACHER_EPOCHS = 40  # minimum, even if the students' schedule is shortened
_SLIM = ("mobilenet", "shufflenet")  # depthwise convolutions need a lower learning rate


@dataclass(frozen=True)
class Pair:
    """A teacher-student pair of tables 1 and 2, with the published top-1 accuracy of each method."""

    teacher: str
    student: str
    paper: Mapping[str, float]  # in percent, means of 5 runs; those of DKD are from Zhao et al. 2022
    beta: float = 8.0  # of DKD, in that paper

    @property
    def name(self) -> str:
        return f"{self.teacher}:{self.student}"

    @property
    def folder(self) -> str:
        return f"{self.teacher}-{self.student}"

    @property
    def methods(self) -> tuple[str, ...]:
        return ("kd", "at", "fitnet", "crd", "crd+kd", f"dkd:beta={self.beta:g}")


def _pair(teacher: str, student: str, *figures: float, beta: float = 8.0) -> Pair:
    heads = ("teacher", "alone", "kd", "crd", "crd+kd", "dkd")
    return Pair(teacher, student, dict(zip(heads, figures, strict=False)), beta)


PAIRS = {
    pair.name: pair
    for pair in (
        _pair("wrn_40_2", "wrn_16_2", 75.61, 73.26, 74.92, 75.48, 75.64, 76.23, beta=6),
        _pair("wrn_40_2", "wrn_40_1", 75.61, 71.98, 73.54, 74.14, 74.38, 74.81, beta=6),
        _pair("resnet56", "resnet20", 72.34, 69.06, 70.66, 71.16, 71.63, 71.97, beta=2),
        _pair("resnet110", "resnet20", 74.31, 69.06, 70.67, 71.46, 71.56, beta=2),
        _pair("resnet110", "resnet32", 74.31, 71.14, 73.08, 73.48, 73.75, 74.11, beta=2),
        _pair("resnet32x4", "resnet8x4", 79.42, 72.50, 73.33, 75.51, 75.46, 76.32),
        _pair("vgg13", "vgg8", 74.64, 70.36, 72.98, 73.94, 74.29, 74.68, beta=6),
        _pair("vgg13", "mobilenetv2", 74.64, 64.60, 67.37, 69.73, 69.94, 69.71, beta=6),
        _pair("resnet50", "mobilenetv2", 79.34, 64.60, 67.35, 69.11, 69.54, 70.35),
        _pair("resnet50", "vgg8", 79.34, 70.36, 73.81, 74.30, 74.58),
        _pair("resnet32x4", "shufflenetv1", 79.42, 70.50, 74.07, 75.11, 75.12, 76.45),
        _pair("resnet32x4", "shufflenetv2", 79.42, 71.82, 74.45, 75.65, 76.05, 77.07),
        _pair("wrn_40_2", "shufflenetv1", 75.61, 70.50, 74.83, 76.05, 76.27, 76.70),
    )
}


def find_pair(text: str) -> Pair:
    """Look up a pair, TEACHER:STUDENT, or make one of any two nets of the cifar family.

    Example:
        >>> find_pair("vgg13:vgg8").paper["crd"], find_pair("vgg13:resnet20").paper
        (73.94, {})
    """
    from understudy.models.cifar import NETS

    if text in PAIRS:
        return PAIRS[text]
    teacher, colon, student = text.partition(":")
    if not colon:
        raise UnderstudyError(f"pair {text!r} is not TEACHER:STUDENT, as in wrn_40_2:wrn_16_2")
    for name in (teacher, student):
        if name not in NETS:
            raise UnderstudyError(f"the cifar family has no net {name!r}{nearest(name, NETS)}")
    return Pair(teacher, student, {})


def one_pair(bench: Bench, usual: str) -> Pair:
    """The pair of an experiment that takes only one."""
    if len(bench.pairs) > 1:
        raise UnderstudyError(f"this experiment takes one --pair, not {len(bench.pairs)}; run it once per pair")
    return find_pair(bench.pairs[0] if bench.pairs else usual)


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


def epochs_of(bench: Bench, full: int = EPOCHS) -> int:
    return max(1, round(full * bench.scale / (60 if bench.quick else 1)))


def teacher(bench: Bench, net: str, seeds: int = 1, **changes: Any) -> Run:
    """Teachers trained on the labels, differing in their initial weights."""
    epochs = max(epochs_of(bench), 0 if bench.quick else TEACHER_EPOCHS)
    values = schedule(bench, net, epochs, model=f"cifar:{net}", seeds=seeds, **changes)
    return bench.ensure(f"teacher-{net}" + f"-x{seeds}" * (seeds > 1), TrainRecipe(**values))


def students(bench: Bench, name: str, net: str, source: Path, methods: tuple[str, ...], **changes: Any) -> Run:
    """A student trained alone and distilled by several methods, with three seeds each."""
    distilled = {"student": f"cifar:{net}", "teacher": (str(source),), "method": methods, "seeds": SEEDS}
    return bench.ensure(name, DistillRecipe(**schedule(bench, net, epochs_of(bench), **distilled, **changes)))


def cifar100(bench: Bench) -> Comparison:
    """`understudy reproduce crd-cifar100 [--pair TEACHER:STUDENT ...] [--scale 0.1] [--data SET]`

    Expect: every method above the student alone, CRD+KD at least as good as KD, CRD's correlation difference smallest.
    """
    pairs = [find_pair(text) for text in bench.pairs] or list(PAIRS.values())
    heads = ("teacher", "alone", "kd", "at", "fitnet", "crd", "crd+kd", "dkd")
    lines: list[Line] = []
    for pair in pairs:
        source = teacher(bench, pair.teacher)
        facts = students(bench, pair.folder, pair.student, source.path, pair.methods).facts
        methods = {one.name.partition(":")[0]: one.name for one in facts.of("distilled")}
        here = {head: accuracy(facts, "distilled", name=name) for head, name in methods.items()}
        here |= {"teacher": accuracy(facts, "teacher"), "alone": accuracy(facts, "alone")}
        apart = {head: correlation(facts, "distilled", name=name) for head, name in methods.items()}
        apart |= {"teacher": "", "alone": correlation(facts, "alone")}
        published = [f"{pair.paper[head]:.2f}%" if head in pair.paper else "" for head in heads]
        lines += [(pair.name, "paper", *published), ("", "here", *(here[head] for head in heads))]
        lines += [("", "correlation Δ", *(apart[head] for head in heads))]
    return Comparison(("teacher:student", "", *heads), lines, [shortened(bench), _CORRELATION, _DIFFERS])


_CORRELATION = (
    "Correlation Δ: mean difference between the teacher's and the student's correlations of the logits of two "
    "classes; the paper shows it as heatmaps."
)
_DIFFERS = "CRD uses all negatives instead of 16,384 sampled ones, and temperature 0.07."


def shortened(bench: Bench, full: int = EPOCHS) -> str:
    """A note on the schedule and the data, where they differ from the paper's."""
    note = scheduled(bench, full)
    return note + (f" On {Path(bench.data).name}: the paper's results are on another data set." if bench.data else "")


def scheduled(bench: Bench, full: int = EPOCHS) -> str:
    """A note on the seeds and epochs."""
    epochs = epochs_of(bench, full)
    note = f"{SEEDS} seeds, {epochs} epochs" + (f" of the paper's {full}." if epochs != full else ", as in the paper.")
    if epochs < TEACHER_EPOCHS and not bench.quick and full == EPOCHS:
        note += f" The teachers are trained for {TEACHER_EPOCHS}."
    return note


def ensemble(bench: Bench) -> Comparison:
    """`understudy reproduce crd-ensemble [--pair TEACHER:STUDENT] [--scale 0.1] [--data SET]`

    Expect: students of three teachers above those of one, and CRD at least as good as KD (the paper's figure 3).
    """
    pair = one_pair(bench, "wrn_40_2:wrn_16_2")
    source = teacher(bench, pair.teacher, seeds=3)
    methods = ("kd", "crd", "crd+kd")
    lines: list[Line] = []
    for number, teachers in ((1, source.path / "models" / "model-0.safetensors"), (3, source.path)):
        facts = students(bench, f"{pair.folder}-of-{number}", pair.student, teachers, methods).facts
        accuracies = [accuracy(facts, "distilled", name=name) for name in methods]
        lines.append((str(number), accuracy(facts, "teacher"), accuracy(facts, "alone"), *accuracies))
    notes = [f"{pair.name}; the teachers differ in their initial weights.", shortened(bench)]
    return Comparison(("teachers", "ensemble", "student alone", *methods), lines, notes)


_IMAGENET = {"alone": 69.76, "kd": 70.66, "at": 70.70, "crd": 71.17, "crd+kd": 71.38, "dkd": 71.70, "dist": 72.07}
# soft targets at T = 1 and equal weights; DKD with the options of Zhao et al. 2022
_IMAGENET_METHODS = (
    "kd:weight=0.5+ce:weight=0.5",
    "at",
    "crd",
    "crd+kd:temperature=4",
    "dkd:beta=0.5,warmup=1",
    "dist",
)


def imagenet(bench: Bench) -> Comparison:
    """`understudy reproduce crd-imagenet --data IMAGENET_FOLDER`

    Distills torchvision's ResNet-34 into a ResNet-18. Expect: CRD+KD above KD, KD above the student alone.
    """
    if not bench.data:
        raise UnderstudyError(
            "pass the folder of ImageNet, which has train/ and val/ with class folders, as --data FOLDER"
        )
    sgd = OptimizerConfig(
        name="sgd", lr=0.1, schedule="step", milestones=(0.3, 0.6, 0.9), weight_decay=1e-4, decay_norms=True, warmup=0
    )
    recipe = DistillRecipe(
        data=bench.data, size=bench.size or 224, teacher=(str(_official(bench, "resnet34")),),
        student="torchvision:resnet18", method=_IMAGENET_METHODS, temperature=1.0,
        epochs=epochs_of(bench, IMAGENET_EPOCHS), batch_size=256, optimizer=sgd,
        augmentation=AugmentationConfig(flip=True, crop_scale=0.08),
    )  # fmt: skip
    facts = bench.ensure("resnet34-resnet18", recipe).facts
    lines: list[Line] = [
        ("teacher, ResNet-34", "73.31%", accuracy(facts, "teacher")),
        ("ResNet-18 alone", f"{_IMAGENET['alone']}%", accuracy(facts, "alone")),
    ]
    for one in facts.of("distilled"):
        published = _IMAGENET[one.name.partition(":")[0]]
        lines.append((one.name, f"{published:.2f}%", accuracy(facts, "distilled", name=one.name)))
    return Comparison(("net", "paper, top-1", "here, top-1"), lines, [shortened(bench, IMAGENET_EPOCHS)])


def _official(bench: Bench, net: str) -> Path:
    """torchvision's weights as a teacher; the class folders of ImageNet sort in torchvision's order."""
    from torchvision.models import get_model

    from understudy.data import open_source
    from understudy.models import Network
    from understudy.pipeline.modality import contract_of

    path = bench.place(f"teacher-{net}").with_suffix(".safetensors")
    if path.exists():
        return path
    contract = contract_of(open_source(bench.data, size=bench.size or 224).train)
    if len(contract.classes) != 1000:
        raise UnderstudyError(
            f"{bench.data} has {len(contract.classes)} classes, not the teacher's 1000; pass ImageNet"
        )
    try:
        module = get_model(net, weights="IMAGENET1K_V1")
    except OSError as fault:
        raise UnderstudyError(
            f"torchvision's {net} could not be downloaded ({fault}); put its weights into TORCH_HOME"
        ) from fault
    Network(module, contract, f"torchvision:{net}").save(path)
    return path


TAKES = frozenset({"pairs", "scale", "data", "size"})
EXPERIMENTS = (
    Experiment(
        "crd-cifar100", "13 teacher-student pairs with six methods each; one pair with --pair", PAPER, cifar100,
        takes=TAKES,
    ),
    Experiment("crd-ensemble", "one teacher versus three, with KD, CRD and both", PAPER, ensemble, takes=TAKES),
    Experiment("crd-imagenet", "ResNet-34 to ResNet-18 with six methods", PAPER, imagenet, takes=TAKES - {"pairs"}),
)  # fmt: skip
