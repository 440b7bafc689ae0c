"""What is decided before anything is trained: the outline, the students and their files, by a few seconds of timing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from understudy.compression.budget import parse_budget
from understudy.compression.candidates import Limits, measure_untrained, names_for, within
from understudy.compression.outline import Outline, Speeds, answer_seconds, draft, fitted, update_seconds
from understudy.compression.recipes import members_of, methods_for
from understudy.config.verbs import CompressConfig
from understudy.data import Source, Splits, omit_classes, only_classes, open_source, typical_size
from understudy.errors import UnderstudyError
from understudy.evaluation import flops, parameters
from understudy.evaluation.facts import CandidateFacts
from understudy.files import path_of
from understudy.models import Network, fold, load_network
from understudy.pipeline.base import new_network
from understudy.pipeline.modality import contract_of
from understudy.pipeline.run_data import Overrides
from understudy.pipeline.threads import using_threads
from understudy.pipeline.weights import pretrained, weights_of

_FORMATS = ("onnx", "int8")  # of which candidates are timed
_TIMED = 128  # pixels at which networks are timed, at most
_FEW, _FEWEST_RACED = 5, 7  # training images of a class: few to learn from, and too few to hold some out


@dataclass(frozen=True)
class Prepared:
    """What is decided before anything is trained.

    Attributes:
        students: names, with seconds per image of an update, in the order in which they are tried.
        candidates: the students' files, timed untrained; none where no limits are asked for.
    """

    outline: Outline
    students: list[tuple[str, float]]
    candidates: list[CandidateFacts]


def prepare(config: CompressConfig, overrides: Overrides) -> Prepared:
    """Sizes, views, steps and candidates, by a few seconds of measurements.

    Raises:
        UnderstudyError: the budget is too short, no student is within the limits, or a class has too few images.
    """
    budget, limits = None if config.budget is None else parse_budget(config.budget), Limits.of(config)
    splits = opened(config, overrides, config.size)
    train, test = selected(splits.train, config), splits.test
    contract = replace(contract_of(train), classes=train.classes)

    def network(spec: str, pixels: int | None) -> Network:
        made = new_network(spec, overrides, contract, 0, config.seed, several=True)
        return made if pixels is None else made.set_input_size(pixels)

    if config.teacher:
        teachers = [load_network(file) for name in config.teacher for file in weights_of(name)]
    else:
        teachers = [network(pretrained(spec, config.from_scratch), None) for spec in config.backbone]
    native = max(one.contract.shape[-1] for one in teachers)
    names = names_for(config, min(typical_size(train)))
    check_counts(train, several=len(names) * len(methods_for(config, len(train))) > 1)
    timed = {name: network(name, None) for name in names}
    reduction = max(reduction_of(one) for one in timed.values())
    outline = draft(config, train, native, reduction, resizable=overrides.data is None)
    small = min(outline.student_size, _TIMED)
    timed = {name: one.set_input_size(small) for name, one in timed.items()}
    with using_threads(config.threads):
        seconds = {name: update_seconds(one, train) for name, one in timed.items()}
        if budget is not None:
            size = min(outline.teacher_size, _TIMED)
            answer = answer_seconds([fold(one.set_input_size(size)) for one in teachers], train)
            slowest = max(seconds[name] for name in (config.student or names[:1]))
            speeds = Speeds(answer, teachers[0].contract.shape[-1], slowest, small)
            outline = fitted(outline, config, speeds, budget, members_of(config), len(train.classes))
    grown = (outline.student_size / small) ** 2
    students = [(name, seconds[name] * grown) for name in names]
    candidates: list[CandidateFacts] = []
    if limits and test is not None:
        networks = {name: network(name, outline.student_size) for name in names}
        files = [one for name in names for one in measure_untrained(networks[name], name, test, train, _FORMATS)]
        candidates = within(limits, files, {name: flops(one) for name, one in networks.items()})
        standing = {one.model for one in candidates if one.stands}
        students = [one for one in students if one[0] in standing]
    notes = [*outline.notes, *remarks(train, teachers, names[0], timed[names[0]])]
    return Prepared(replace(outline, notes=tuple(notes)), students, candidates)


def reduction_of(network: Network) -> int:
    """Pixels of the input along a side for each position of the smallest feature maps; 0 for networks without maps."""
    sides = [shape[-1] for shape in network.shapes().features.values() if len(shape) == 3]
    return math.ceil(network.contract.shape[-1] / min(sides)) if sides else 0


def check_counts(train: Source, *, several: bool) -> None:
    """Check that every class has images, and of several students or methods that some can be held out to choose by.

    Raises:
        UnderstudyError: they are too few.
    """
    assert train.targets is not None
    counts = train.targets.bincount(minlength=len(train.classes))
    present = counts[counts > 0]
    if len(present) < 2:
        raise UnderstudyError(f"{train.name} has training images of one class only; a classifier needs two")
    if several and int(present.min()) < _FEWEST_RACED:
        name = train.classes[int(torch.where(counts > 0, counts, 10**9).argmin())]
        raise UnderstudyError(
            f"class {name} of {train.name} has {int(present.min())} training images, too few to hold some out and "
            "choose a student by; add some, or name one --student and one --method"
        )


def remarks(train: Source, teachers: Sequence[Network], name: str, student: Network) -> list[str]:
    """What to know before the training, in sentences."""
    assert train.targets is not None
    counts, found = train.targets.bincount(minlength=len(train.classes)), []
    few = [label for label, count in zip(train.classes, counts.tolist(), strict=True) if 0 < count < _FEW]
    if few:
        more = f" and {len(few) - 1} more classes have" if len(few) > 1 else " has"
        found.append(f"class {few[0]}{more} fewer than {_FEW} training images; add some")
    if parameters(student) > sum(map(parameters, teachers)):
        found.append(f"{name} is larger than its teacher; name a smaller --student")
    return found


def opened(config: CompressConfig, overrides: Overrides, size: int | None) -> Splits:
    """The data, decoded at a size."""
    root = path_of(config.data_root, "the data root") if config.data_root else None
    source = config.data if overrides.data is None else overrides.data
    return open_source(source, root=root, download=config.download, size=size)


def selected(train: Source, config: CompressConfig) -> Source:
    """The training samples of the chosen classes.

    Raises:
        UnderstudyError: they are not labeled.
    """
    if train.targets is None:
        raise UnderstudyError(f"{train.name} has no labels, which the teacher needs; give labeled images")
    if config.only_classes:
        train = train.subset(only_classes(train, config.only_classes))
    if config.omit_classes:
        train = train.subset(omit_classes(train, config.omit_classes))
    return train
