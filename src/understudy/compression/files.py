"""What could be handed over as files, what is, and whether its int8 file needs training of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from understudy.compression.candidates import PRECISIONS, Limits, measure
from understudy.compression.recipes import backbone_recipe
from understudy.compression.stages import ROUNDED, Stages, Unjudged
from understudy.compression.teacher import frozen_accuracy
from understudy.config.recipe import DistillRecipe
from understudy.data import fraction
from understudy.evaluation.facts import CandidateFacts
from understudy.exporters import ExportedFile, accuracy_lost
from understudy.models import load_network
from understudy.pipeline.kinds import pipeline_of
from understudy.runs.run import Run
from understudy.terminal import Terminal

_SLOWER, _FEWEST_ROUNDED = 2.5, 10  # a step with rounding, times a plain one; steps
_LONG = 900.0  # seconds of a budget from which on the backbone is also tried at a lower resolution
_CHECKED, _TOLERATED = 1_000, 0.003  # training images, and the accuracy that int8 may lose on them


@dataclass
class Compression(Stages):
    """The stages of a compression, and the files in which they end."""

    def rivals(self) -> dict[str, list[CandidateFacts]]:
        """The one backbone as files, by run: as it teaches, frozen, and frozen at a lower resolution."""
        if len(self.config.backbone) != 1:
            return {}
        if not self.found.record.get("rivals_measured"):
            Terminal().say("rivals", "bold")
            names = [name for name in ("teacher", "backbone") if name in self.found.record["runs"]]
            smaller = _smaller(self.outline.teacher_size)
            if smaller and (self.outline.budget is None or self.outline.budget >= _LONG):
                outline, spec = replace(self.outline, teacher_size=smaller), self.named(self.config.backbone[0])
                small = self.ensure("backbone-small", lambda: backbone_recipe(self.config, spec, outline))
                names.append(small.path.name)
            with self.spent.during("rivals"), Terminal().waiting("exporting the backbone"):
                for name in names:
                    self._note_files(Run(self.found.path / name))
            self.found.note(rivals_measured=True)
        known: dict[str, list[Any]] = self.found.record["rivals"]
        return {name: [CandidateFacts.model_validate(one) for one in files] for name, files in known.items()}

    def _note_files(self, run: Run) -> None:
        score = self._score(run) if run.path.name != "student" else self.found.record["scores"]["student"]
        files = [one.model_copy(update={"validation": score}).model_dump(mode="json") for one in self._measured(run)]
        self.found.note(rivals=self.found.record.get("rivals", {}) | {run.path.name: files})

    def _measured(self, run: Run) -> list[CandidateFacts]:
        data = pipeline_of(run.located_recipe(required=True), self.overrides).data
        formats = [name for name in self.config.format if name in PRECISIONS]
        if data.test is None or not formats:
            return []
        network = load_network(next(iter(run.models.values())), trust_code=self.overrides.trust_code)
        name = getattr(run.recipe, "student", self.config.backbone[0])
        role = "student" if run.path.name == "student" else "backbone"
        return measure(network, name, role, data.test, data.train, formats)

    def _score(self, run: Run) -> float | None:
        """The accuracy of a backbone on images that it was not fitted to."""
        if run.path.name == "teacher":
            return self.found.record["judged"]["teacher"]["accuracy"]
        return frozen_accuracy(run)

    def handed_over(self, student: Run) -> Run:
        """What becomes a file: the student that was asked for, else the most accurate of all within the limits."""
        if self.config.student:
            return student
        if "handed" in self.found.record:
            return Run(self.found.path / self.found.record["handed"])
        limits, pipeline = Limits.of(self.config), pipeline_of(student.located_recipe(required=True), self.overrides)
        scores = {student.path.name: self.validation_accuracy(student, pipeline)}
        for name, files in self.rivals().items():
            if any(limits.admit(one) for one in files) and limits.flops is None:
                scores[name] = files[0].validation or 0.0
        best = max(scores, key=lambda name: scores[name])
        self.found.note(handed=best, scores=scores)
        if best != student.path.name:  # else its files are measured when they are exported
            self._note_files(student)
        return Run(self.found.path / best)

    def rounded(self, student: Run, files: Sequence[ExportedFile]) -> Run | None:
        """The student trained on with the rounding of an int8 file, if that file loses accuracy on training images.

        Args:
            files: as the student was exported.
        """
        int8 = [one for one in files if one.format == "int8"]
        if not int8:
            return None
        if "int8_loss" not in self.found.record:
            data = pipeline_of(student.located_recipe(required=True), self.overrides).data
            labeled = data.train if data.train.labeled else data.labeled
            some = labeled.subset(fraction(labeled, min(1.0, _CHECKED / len(labeled)), self.config.seed))
            network = student.network("distilled-0", trust_code=self.overrides.trust_code)
            with self.spent.during("int8"), Terminal().waiting("checking int8"):
                self.found.note(int8_loss=accuracy_lost(network, int8[0], some))
        if self.found.record["int8_loss"] <= _TOLERATED or not self._has_time_to_round(student):
            return None

        def begin() -> DistillRecipe:
            recipe = student.recipe
            assert isinstance(recipe, DistillRecipe)
            steps = max(_FEWEST_ROUNDED, round(ROUNDED / _SLOWER * (recipe.steps or 0)))
            optimizer = recipe.optimizer.model_copy(update={"lr": recipe.optimizer.lr / 40})
            update = {"student": str(student.path), "qat": True, "steps": steps, "baseline": False, "seeds": 1}
            return recipe.model_copy(update=update | {"optimizer": optimizer})

        return self.ensure("int8", begin, Unjudged)

    def _has_time_to_round(self, student: Run) -> bool:
        """Whether the budget holds a training with rounding and another export; it prints a line if not."""
        if "int8_trained" not in self.found.record:
            left = math.inf if self.outline.budget is None else self.outline.budget - self.spent.seconds
            needed = ROUNDED * student.duration + self.spent.of_stage("export") + self.outline.tail / 2
            self.found.note(int8_trained=left >= needed)
            if left < needed:
                loss = 100 * self.found.record["int8_loss"]
                Terminal().say(
                    f"int8 loses {loss:.1f} points on training images; there is no time to train it", "yellow"
                )
        return self.found.record["int8_trained"]


def _smaller(size: int) -> int | None:
    """About 0.7 of a size, which halves the arithmetic; None where that is no size for a network."""
    smaller = 32 * round(0.7 * size / 32)
    return smaller if 32 <= smaller < size else None
