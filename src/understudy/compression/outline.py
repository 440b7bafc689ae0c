"""What a compression will do, decided from the sizes of the data and measured speeds before anything is trained."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from understudy.compression.budget import START_UP
from understudy.config.finetune import FEW_SHOTS
from understudy.config.verbs import CompressConfig
from understudy.data import Source, typical_size
from understudy.errors import UnderstudyError
from understudy.models import Network
from understudy.pipeline.threads import blank_batch
from understudy.training.logging import clock

SIZES = (224, 192, 160, 128, 96)
"""Pixels of the views of large images, which time allows or not."""
SCORING, LABELS, TUNING, RACE, TAIL = 0.06, 0.15, 0.25, 0.2, 0.03
"""Shares of a budget: the backbone's score and head, the teachers' answers, fine-tuning, the race of students; and what
evaluation and pages take."""
_FITTED = 20  # images of a class that a head is fitted to at least
TAIL_SECONDS = 15.0  # of export and start-up, on one core
FEWEST_PASSES, ENOUGH = 40, 100_000
"""Below them, smaller images are taken for the student; so many in all are enough, however few passes they make."""
FEWEST_VIEWS, REPEATED = 16, 4
"""Below them, smaller images are taken for the teacher; those suffice that are shown so often in `ENOUGH` images."""
POSITIONS = 2
"""Small images are enlarged for a student, to at most twice their size, until its last feature maps are so wide."""
TUNED_EPOCHS = (4, 20)
"""Epochs of fine-tuning: as many as its share of the budget allows, and none if fewer than the first."""
_PASSES, _FEWEST, _MOST = 200.0, 64_000, 3_200_000  # of the student without a budget, and images in all
_UPDATES = 3_000  # of the student: with fewer, batches are smaller
_BACKWARD = 6.0  # times a folded forward pass: forward and backward in training, on a CPU


@dataclass(frozen=True)
class Speeds:
    """Seconds per image on this machine.

    Attributes:
        answer: of all teachers' forward passes at `size` pixels.
        update: of an update of the slowest student asked for, at `student_size` pixels.
    """

    answer: float
    size: int
    update: float
    student_size: int

    def answer_at(self, size: int) -> float:
        return self.answer * (size / self.size) ** 2

    def update_at(self, size: int) -> float:
        return self.update * (size / self.student_size) ** 2


@dataclass(frozen=True)
class Outline:
    """Sizes, views and shares of time.

    Attributes:
        view_size: pixels to which images are decoded; None where they are arrays of one size.
        teacher_size, student_size: pixels of the networks' inputs.
        scored: training images that the backbone is scored on, and its head fitted to.
        views: of each image that the teachers answer.
        tuned_epochs: of fine-tuning; 0 where the frozen backbone teaches.
        examples: training images.
        batch_size: of the student's updates.
        budget: seconds; None for no limit.
        notes: the above in sentences.
    """

    view_size: int | None
    teacher_size: int
    student_size: int
    scored: int
    views: int
    tuned_epochs: int
    examples: int
    batch_size: int
    budget: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def tail(self) -> float:
        """Seconds kept for what follows the training of the student."""
        return 0.0 if self.budget is None else TAIL_SECONDS + TAIL * self.budget

    @classmethod
    def from_record(cls, values: dict[str, Any]) -> Outline:
        changed: dict[str, Any] = values | {"notes": tuple(values["notes"])}
        return cls(**changed)


def default_passes(examples: int) -> float:
    """Passes of the student over the images without a budget: 200, within bounds of the number of images in all.

    >>> default_passes(720), default_passes(10**6)
    (200.0, 3.2)
    """
    return min(max(_PASSES, _FEWEST / examples), _MOST / examples)


def batch_for(images: float) -> int:
    """Images of an update of a student that is shown so many in all: fewer where updates would be few.

    >>> batch_for(60_000), batch_for(200_000)
    (32, 64)
    """
    return 32 if images < 32 * _UPDATES else 64


def draft(config: CompressConfig, train: Source, native: int, reduction: int, *, resizable: bool) -> Outline:
    """The outline where time is no matter: images as large as they are and the backbone takes.

    Args:
        native: pixels of the images that the backbone was made for.
        reduction: pixels of a student's input for each of its last feature maps; 0 where it has none.
        resizable: whether the images can be decoded at another size than theirs.
    """
    image = min(typical_size(train))
    teacher = config.crop_size or min(native, SIZES[0], 2 * image)
    student = config.student_size or min(teacher, max(image, min(2 * image, POSITIONS * reduction)))
    large = resizable and image > SIZES[-1]
    view = config.size or (min(image, max(teacher, student)) if large else None)
    few = len(train) < FEW_SHOTS * len(train.classes) and not config.teacher_steps
    tuned = 0 if few or config.teacher or config.teacher_steps == 0 else TUNED_EPOCHS[1]
    shown = default_passes(len(train)) * len(train)
    return Outline(view, teacher, student, len(train), config.views, tuned, len(train), batch_for(shown))


def fitted(
    draft: Outline, config: CompressConfig, speeds: Speeds, budget: float, members: int, classes: int
) -> Outline:
    """The outline that a budget allows.

    Args:
        classes: of the images.
        members: networks that the last stage trains side by side.

    Raises:
        UnderstudyError: the budget is too short for a few passes.
    """
    n, left = draft.examples, budget * (1 - TAIL) - TAIL_SECONDS - START_UP
    ladder = [size for size in SIZES if size < draft.teacher_size and draft.view_size and not config.size]
    teacher = draft.teacher_size
    if not config.crop_size:
        sizes = [draft.teacher_size, *ladder]
        needed = n * min(FEWEST_VIEWS, math.ceil(ENOUGH / (REPEATED * n)))
        enough = (s for s in sizes if needed * speeds.answer_at(s) <= LABELS * budget)
        teacher = next(enough, sizes[-1])
    answer = speeds.answer_at(teacher)
    scored = min(n, max(int(SCORING * budget / answer), _FITTED * classes))
    views = max(1, min(config.views, int(LABELS * budget / (n * answer))))
    tuned = 0
    if draft.tuned_epochs:
        affordable = int(TUNING * budget / (n * answer * _BACKWARD))
        tuned = min(affordable, TUNED_EPOCHS[1]) if affordable >= TUNED_EPOCHS[0] else 0
    left -= answer * (scored + n * (views + _BACKWARD * tuned))
    student = min(draft.student_size, teacher)
    if not config.student_size:
        sizes = [student, *(size for size in ladder if size < student)]
        needed = members * min(FEWEST_PASSES * n, ENOUGH)
        enough = (s for s in sizes if needed * speeds.update_at(s) <= left)
        student = next(enough, sizes[-1])
    passes = left / (members * n * speeds.update_at(student))
    if passes < 1:
        least = budget - left + members * n * speeds.update_at(student)
        raise UnderstudyError(
            f"a budget of {clock(budget)} is too short for a pass of the student over the {n:,} images: the teacher's "
            f"answers take {clock(n * answer)} a view here and such a pass {clock(n * speeds.update_at(student))}; "
            f"give at least {math.ceil(least)}s, or use smaller images with --crop-size"
        )
    views = max(1, min(views, math.ceil(passes)))
    notes = [
        f"budget of {clock(budget)}: views of {teacher} pixels for the teacher, {views} of each of the {n:,} images, "
        f"about {clock(views * n * answer)}; "
        + (f"{tuned} epochs of fine-tuning, about {clock(tuned * n * answer * _BACKWARD)}" if tuned else
           "the frozen backbone teaches, as fine-tuning would take too much of the time"),
        f"about {passes:,.0f} passes at {student} pixels for the student",
    ]  # fmt: skip
    if passes < FEWEST_PASSES:
        notes.append(
            f"{passes:.0f} passes are few, {FEWEST_PASSES} would be better: give more time, a smaller --student, or "
            "--crop-size and --student-size"
        )
    view = draft.view_size if draft.view_size is None or config.size else min(draft.view_size, max(teacher, student))
    return replace(
        draft, view_size=view, teacher_size=teacher, student_size=student, scored=scored, views=views,
        tuned_epochs=tuned, batch_size=batch_for(passes * n), budget=budget, notes=tuple(notes),
    )  # fmt: skip


def answer_seconds(networks: list[Network], source: Source, count: int = 4) -> float:
    """Seconds per image of the forward passes of some networks, on blank images."""
    batch = blank_batch(source, count)
    with torch.inference_mode():
        return sum(_best(lambda network=network: network.eval()(batch)) for network in networks) / count


def update_seconds(network: Network, source: Source, count: int = 32) -> float:
    """Seconds per image of an update of a network on the CPU, on blank images."""
    batch = blank_batch(source, count)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-5)

    def update() -> None:
        network(batch).logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return _best(update) / count


def _best(call: Any, least: int = 3, seconds: float = 1.5) -> float:
    """The median time of some calls, after one that is not timed."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (time.perf_counter() < end and len(times) < 20):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
