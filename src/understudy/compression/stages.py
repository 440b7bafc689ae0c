"""The stages of a compression, each a run in its folder that is begun, continued or left as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from understudy.compression.budget import Spent
from understudy.compression.outline import RACE, Outline, default_passes
from understudy.compression.race import Entrant, field_of, rounds, steps_of_round, survivors
from understudy.compression.recipes import (
    TARGETS,
    VALIDATION,
    alone_recipe,
    backbone_recipe,
    default_steps,
    label_config,
    members_of,
    methods_for,
    student_recipe,
    tuned_recipe,
)
from understudy.compression.teacher import GOOD, frozen_accuracy, judge, right_of
from understudy.config.recipe import DistillRecipe, Recipe, TrainRecipe
from understudy.config.verbs import CompressConfig
from understudy.pipeline.base import Pipeline
from understudy.pipeline.distill import Distill
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.label import Labeling
from understudy.pipeline.label import label as write_targets
from understudy.pipeline.loss import methods_of
from understudy.pipeline.resumption import threads_of
from understudy.pipeline.run import train_and_evaluate
from understudy.pipeline.run_data import Overrides
from understudy.pipeline.train import Train
from understudy.pipeline.weights import pretrained
from understudy.runs.collection import RunCollection, named_when_stopped
from understudy.runs.run import Run
from understudy.runs.targets import TargetsFolder
from understudy.terminal import Terminal

PILOT = 12
"""The student's schedule is about so many times as long as the pilot's."""
ROUNDED = 0.1
"""The part of the student's time that is trained with the rounding of an int8 file, where that is needed."""
_AGAIN, _PAGE = 0.6, 10.0  # the student's exports, as a multiple of the backbone's; seconds of latencies and the page
_FEWEST = 3  # passes of each entrant in the first round


class Unjudged(Distill[DistillRecipe]):
    """A student that is scored by itself: its teachers, which take longer, are scored beside the one handed over."""

    def evaluation_teacher(self, device: torch.device) -> None:
        return None


@dataclass
class Stages:
    """A compression on its way.

    Attributes:
        outline: what was decided at its start.
        overrides: with the data opened.
    """

    found: RunCollection
    config: CompressConfig
    outline: Outline
    overrides: Overrides
    spent: Spent

    def ensure(
        self, name: str, recipe: Callable[[], Recipe], pipeline: Callable[[Any, Overrides], Pipeline[Any]] = pipeline_of
    ) -> Run:
        """The finished run of a stage; its recipe is made when it begins, and kept."""
        run, names = Run(self.found.path / name), self.found.record["runs"]
        if name not in names:
            run.prepare(recipe(), ())
            self.found.note(runs=[*names, name])
        if not run.finished:
            Terminal().say(name, "bold")
            with named_when_stopped(self.found.path), self.spent.during(name):
                made = pipeline(run.located_recipe(required=True), self.overrides)
                train_and_evaluate(made, run, self.found.command, within=self.found, threads=self.threads)
        return run

    @property
    def threads(self) -> int | None:
        return threads_of(self.found)

    # --- the teacher --------------------------------------------------------------------------------------

    def named(self, backbone: str) -> str:
        return pretrained(backbone, self.config.from_scratch)

    def backbones(self) -> list[Run]:
        """Each backbone as it is given, under the better of its own head and a linear probe."""
        names = _numbered("backbone", len(self.config.backbone))
        return [
            self.ensure(name, lambda spec=spec: backbone_recipe(self.config, self.named(spec), self.outline))
            for name, spec in zip(names, self.config.backbone, strict=True)
        ]

    def teachers(self) -> list[str]:
        """The networks that teach: those given, else of each backbone the better of frozen and fine-tuned."""
        if self.config.teacher:
            return list(self.config.teacher)
        chosen, sentences = [], []
        names = _numbered("teacher", len(self.config.backbone))
        for name, frozen in zip(names, self.backbones(), strict=True):
            verdict = self._tuned(name, frozen)
            chosen.append(str(self.found.path / name if verdict and verdict["tuned"] else frozen.path))
            sentences += [verdict["sentence"]] if verdict else []
        if sentences and "teacher_kept" not in self.found.record:
            self.found.note(teacher_kept=" ".join(sentences))
            for sentence in sentences:
                Terminal().say(sentence)
        return chosen

    def _tuned(self, name: str, frozen: Run) -> dict[str, Any] | None:
        """Fine-tune a backbone if that was planned; whether it is better, and a sentence."""
        if not self.outline.tuned_epochs:
            return None
        known = self.found.record.get("judged", {})
        if name in known:
            return known[name]
        if self.outline.budget is not None and (right := frozen_accuracy(frozen)) >= GOOD:
            sentence = (
                f"The frozen backbone teaches: with {right:.1%} in cross-validation, the student needs the time more."
            )
            known |= {name: {"tuned": False, "sentence": sentence}}
        else:
            run = self.ensure(name, lambda: tuned_recipe(self.config, str(frozen.path), self.outline))
            recipe = run.located_recipe(required=True)
            assert isinstance(recipe, TrainRecipe)
            with self.spent.during(name):
                verdict = judge(frozen, run, Train(recipe, self.overrides))
            known |= {name: {"tuned": verdict.is_tuned, "sentence": str(verdict), "accuracy": verdict.tuned}}
        self.found.note(judged=known)
        return known[name]

    # --- their answers ------------------------------------------------------------------------------------

    def label(self, recipe: DistillRecipe) -> TargetsFolder:
        """Have the teachers answer the views of a student, unless they did."""
        targets = TargetsFolder(self.found.path / TARGETS)
        if targets.finished:
            return targets
        Terminal().say(TARGETS, "bold")
        terms = [term for method in self.methods for term in _terms(recipe, method)]
        plain = recipe.model_copy(update={"targets": None, "validation": 0.0, "method": ("kd",), "objective": ()})
        pipeline = Distill(plain, self.overrides)
        views = self.outline.views
        if self.outline.budget is None:
            views = min(views, math.ceil((recipe.steps or 1) * recipe.batch_size / self.outline.examples))
        embedding = not all(term.reads_logits_alone for term in terms)
        config = label_config(plain, views, embedding, self.threads)
        with named_when_stopped(self.found.path), self.spent.during(TARGETS):
            write_targets(Labeling(pipeline, config, targets))
        return targets

    # --- students -----------------------------------------------------------------------------------------

    @property
    def methods(self) -> tuple[str, ...]:
        return methods_for(self.config, self.outline.examples)

    def recipe(self, teachers: Sequence[str], student: str, method: str, steps: int) -> DistillRecipe:
        targets = str(self.found.path / TARGETS)
        return student_recipe(self.config, self.outline, teachers, targets, student, method, steps)

    def race(self, teachers: Sequence[str], students: Sequence[tuple[str, float]]) -> Entrant:
        """The student and the method to go on with.

        Args:
            students: names, with seconds per image of an update.
        """
        budget, n = self.outline.budget, self.outline.examples
        total = RACE * budget if budget else default_passes(n) * n * students[0][1] * len(students) / PILOT
        entrants = field_of(students, self.methods, total, n, _FEWEST)
        number, count = 0, rounds(len(entrants))
        while len(entrants) > 1:
            accuracy = [self._heat(number, i, entrants, teachers, total / count) for i in range(len(entrants))]
            for one, right in zip(entrants, accuracy, strict=True):
                Terminal().say(f"{one.label()}: {right:.1%} on the validation part")
            entrants, number = survivors(entrants, accuracy), number + 1
        return entrants[0]

    def _heat(
        self, number: int, place: int, field: Sequence[Entrant], teachers: Sequence[str], seconds: float
    ) -> float:
        """The validation accuracy of an entrant in a round of so many seconds."""
        one = field[place]
        name, known = f"round-{number + 1}-{place + 1}", self.found.record.get("race", {})
        if name not in known:

            def begin() -> DistillRecipe:
                recipe = self.recipe(teachers, one.student, one.method, 1)
                steps = steps_of_round(seconds, field, recipe.batch_size)
                return recipe.model_copy(
                    update={"steps": steps, "baseline": False, "validation": VALIDATION, "seeds": 1}
                )

            run = self.ensure(name, begin, Unjudged)
            pipeline = pipeline_of(run.located_recipe(required=True), self.overrides)
            with self.spent.during(name):
                accuracy = self.validation_accuracy(run, pipeline)
            known |= {name: {"student": one.student, "method": one.method, "accuracy": accuracy}}
            self.found.note(race=known)
        return known[name]["accuracy"]

    def validation_accuracy(self, run: Run, pipeline: Pipeline[Any]) -> float:
        """Of the distilled network of a run that has a validation part."""
        held = pipeline.data.validation
        assert held is not None
        return float(right_of(run.models["distilled-0"], pipeline, held).float().mean())

    def pilot(self, teachers: Sequence[str], winner: Entrant) -> Run | None:
        """With a budget, the student on a part of its schedule, which tells how fast and how well it learns."""
        budget = self.outline.budget
        if budget is None:
            return None

        def begin() -> DistillRecipe:
            recipe = self.recipe(teachers, winner.student, winner.method, 1)
            members = PILOT * members_of(self.config) + 1
            steps = int(self._left(budget) / (members * winner.seconds * recipe.batch_size))
            return recipe.model_copy(update={"steps": max(steps, 2), "baseline": False, "seeds": 1})

        return self.ensure("pilot", begin, Unjudged)

    def student(self, teachers: Sequence[str], winner: Entrant, pilot: Run | None) -> Run:
        """The student distilled beside the same one alone, for as long as there is time."""

        def begin() -> DistillRecipe:
            recipe = self.recipe(teachers, winner.student, winner.method, self._student_steps(pilot))
            beside = self.config.baseline and self.config.transfer_set is None
            update = {"baseline": beside, "seeds": self.config.seeds}
            # where the backbone may be handed over in its place, both are judged by the validation part
            return recipe.model_copy(update=update | ({} if self.config.student else {"validation": VALIDATION}))

        if self.config.baseline and self.config.transfer_set is not None:
            self.ensure("alone", lambda: alone_recipe(begin()))
        return self.ensure("student", begin)

    def _student_steps(self, pilot: Run | None) -> int:
        """Updates of the student and of the same one alone: as many as there is time for when the first begins."""
        if pilot is None or self.outline.budget is None:
            return self.config.steps or default_steps(self.outline)
        if "student_steps" not in self.found.record:
            members = members_of(self.config)
            step, own = _step_seconds(pilot)
            evaluation = max(self.spent.of_stage("pilot") - pilot.duration, 0.0)
            left = self._left(self.outline.budget) - members * evaluation
            rounded = ROUNDED if "int8" in self.config.format else 0.0
            self.found.note(student_steps=max(2, int(left / (step + (members - 1 + rounded) * own))))
        return self.found.record["student_steps"]

    def _left(self, budget: float) -> float:
        """Seconds for the training of students: the exports that follow take about as long as the backbone's did."""
        exports = _AGAIN * self.spent.of_stage("rivals") + _PAGE
        return budget - self.spent.seconds - max(self.outline.tail, exports)


def _step_seconds(run: Run) -> tuple[float, float]:
    """Seconds of a step of a run with one network, and the part that another beside it would add."""
    cost, step = run.record["cost"], run.duration / max(run.recipe.steps or 1, 1)
    own = sum(seconds for name, seconds in cost["seconds"].items() if name != "teacher")
    if not own:  # the device was not timed
        return step, step
    return step, min(step, own / cost["images"] * run.recipe.batch_size)


def _numbered(name: str, count: int) -> list[str]:
    """["teacher"], or ["teacher-0", "teacher-1", ...]."""
    return [name] if count == 1 else [f"{name}-{i}" for i in range(count)]


def _terms(recipe: DistillRecipe, method: str) -> list[Any]:
    name, _, options = method.partition(":")
    update = {"method": (name,), "objective": ()} if not options else {"method": ("kd",), "objective": (method,)}
    return [term for terms in methods_of(recipe.model_copy(update=update)).values() for term in terms]
