"""`distill`: a student trained on its teachers' soft targets, with the same student trained alone as the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar

import torch

from understudy.config.options import parse_pairs
from understudy.config.recipe import DistillRecipe
from understudy.data import Source, with_unlabeled
from understudy.data.modalities import check_modality
from understudy.data.parts import distinct, held_apart
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import RunFacts
from understudy.models import InputContract, Network, build, with_own_classes
from understudy.models.reuse import reuse_classifier
from understudy.objectives import OBJECTIVES, BuildContext, FirstStage, Objective
from understudy.objectives.features import PRE
from understudy.panels.panel import SpecialistPanel
from understudy.pipeline.base import LiveTeacher, for_crops
from understudy.pipeline.device import device_of, slower_in_bf16
from understudy.pipeline.loss import Term, methods_of
from understudy.pipeline.modality import can_read, set_modality
from understudy.pipeline.representation import WATCHED, Watch, compare_representations, watch_of
from understudy.pipeline.run_data import open_parts
from understudy.pipeline.targets import Taught
from understudy.pipeline.weights import teacher_files, teachers_of
from understudy.runs.run import Run
from understudy.signals import Signals, joined
from understudy.teachers import Teacher, adopt_classes, combine, match_classes
from understudy.training import Member

_START = "start.safetensors"  # the student before its first step
_FEWEST, _ENOUGH = 20, 200  # samples: fewer are not split, and so many are enough to watch
_FITTED = 2048  # samples of which the teacher's space is measured
_FITTED_MAPS = 128  # the same where feature maps are read, whose positions are samples too
D = TypeVar("D", bound=DistillRecipe)


class Distill(Taught[D]):
    """Trains `student` by each method of the recipe, on the same batches and one pass of the teachers."""

    def check(self) -> None:
        super().check()
        _ = self._terms  # unknown names and options

    @property
    def _transfer_set(self) -> object | None:
        given = self.overrides.transfer_set
        return self.recipe.transfer_set if given is None else given

    def open_data(self) -> tuple[Source, Source | None]:
        if not self._transfer_set:
            return super().open_data()
        data = self.recipe.data if self.overrides.data is None else self.overrides.data
        return open_parts(self.recipe, data, {}, self.test_size)  # pairs are of the transfer set

    def transfer_set(self, train: Source, labeled: Source) -> Source:
        if not self._transfer_set:
            return train
        transfer, _ = open_parts(self.recipe, self._transfer_set, parse_pairs(self.recipe.pair), self.test_size)
        if self.recipe.transfer_beside:
            return with_unlabeled(train, transfer)
        return transfer if transfer.classes == labeled.classes else replace(transfer, targets=None, classes=())

    def hold_out(self, train: Source) -> tuple[Source, Source | None]:
        """Of a representation a tenth is held out to watch it on, of few samples up to a fifth, and at most 500.

        Exact copies are left out before.
        """
        if self._trains_classes or self._answers_are_mixed:
            return super().hold_out(train)
        train = distinct(train)
        if len(train) < _FEWEST:
            return super().hold_out(train)
        count = min(WATCHED, max(len(train) // 10, min(len(train) // 5, _ENOUGH)))
        kept, held = held_apart(train, count, self.recipe.seed)
        return train.subset(kept), train.subset(held)

    @property
    def _answers_are_mixed(self) -> bool:
        """Whether there are answers to pairs of samples alone."""
        return bool(self.recipe.mixup) and self.recipe.targets is not None

    def watch(self, source: Source | None, device: torch.device) -> Watch | None:
        if self._trains_classes or self._answers_are_mixed or source is None:
            return None
        return watch_of(source, self.teachers, self.store, device)

    def complete(self, run: Run, facts: RunFacts) -> RunFacts:
        if self._trains_classes:
            return super().complete(run, facts)
        data, models = self.data, {name: self.load(file) for name, file in run.models.items()}
        found = compare_representations(
            models, self.load(run.path / _START), self.teachers, self.store, data.train, data.calibration, data.test,
            device_of(self.recipe), run.path,
        )  # fmt: skip
        return facts.model_copy(update={"representation": found})

    @cached_property
    def teachers(self) -> dict[str, Network]:
        recipe, data = self.recipe, self.data
        networks: dict[str, Network] = {}
        for index, module in enumerate(self.overrides.teachers):
            network = build(module, data.contract(recipe.teacher_modality))
            networks[f"teacher-{index}"] = with_own_classes(network)
        for name in self._teacher_names:
            contract = partial(data.contract, recipe.teacher_modality)
            networks |= teachers_of(name, contract, size=recipe.teacher_size, trust_code=self.overrides.trust_code)
        for network in networks.values():
            network.full_precision = slower_in_bf16(recipe, network)
        if not networks:
            return {}
        classes = data.labeled.classes or next(iter(networks.values())).classes
        for name, network in networks.items():
            self.match(f"teacher {name}", network, classes)
            set_modality(network, f"teacher {name}", recipe.teacher_modality)
            check_modality(data.train, network.contract.modality)
        return networks

    def match(self, name: str, network: Network, classes: tuple[str, ...]) -> None:
        """Have a teacher predict the data's classes, which it must where a term of a loss reads its logits."""
        reading = next((term.name for terms in self._terms.values() for term in terms if term.needs_classes), None)
        if reading is None:
            adopt_classes(network, classes)
        elif not network.classes:
            raise UnderstudyError(
                f"{name} has no classifier, and {reading} learns from the logits of one; learn from its embedding with "
                "--method represent, say"
            )
        else:
            match_classes(network, name, classes)

    @cached_property
    def _terms(self) -> dict[str, tuple[Term, ...]]:
        return methods_of(self.recipe)

    @property
    def _trains_classes(self) -> bool:
        return any(term.trains_classes and term.weight != 0 for terms in self._terms.values() for term in terms)

    @property
    def _teacher_names(self) -> tuple[str, ...]:
        return () if self.overrides.teachers else self.recipe.teacher

    @property
    def teacher_files(self) -> list[str]:
        return super().teacher_files + [str(file) for name in self._teacher_names for file in teacher_files(name)]

    def combine(self, teachers: Sequence[Teacher | SpecialistPanel]) -> LiveTeacher:
        return combine(teachers, self.recipe.mean)

    @property
    def spec(self) -> str:
        return self.recipe.student

    def losses(self) -> Mapping[str, tuple[Term, ...]]:
        methods = self._terms
        losses = {"distilled" if len(methods) == 1 else f"distilled-{label}": terms for label, terms in methods.items()}
        baseline = self.recipe.baseline and self.data.train.labeled and self._trains_classes
        return {"alone": (Term("ce", 1.0),)} | losses if baseline else losses

    def begin(self, members: Sequence[Member], run: Run) -> None:
        super().begin(members, run)
        if not self._trains_classes:
            members[0].learner.network.save(run.path / _START)
        fitted = [member for member in members if member.learner.objective.fitted]
        if not fitted:
            return
        read = frozenset().union(*(member.learner.objective.needs.teacher for member in fitted))
        answers = self._first_answers(read - {"logits", "embedding"})
        for member in fitted:
            try:
                member.learner.objective.fit(answers)
            except ValueError as error:
                raise UnderstudyError(str(error)) from error

    def _first_answers(self, features: frozenset[str]) -> Signals:
        """What the teachers say of the first samples that are shown: embeddings, and features where those are read."""
        device = device_of(self.recipe)
        teacher = self.teacher(device)
        assert teacher is not None, "a teacher is required"
        teacher.watch({"embedding"} | features)
        loader, found = self.batches(device), list[Signals]()
        most = -(-(_FITTED_MAPS if features else _FITTED) // self.recipe.batch_size)
        for batch in loader.stream(0, min(most, self.recipe.steps or self.recipe.epochs * loader.steps)):
            if len(batch):
                found.append(teacher(batch))
        if not found:
            raise UnderstudyError(
                f"no image of {self.data.train.name} could be read, so there is nothing to learn from"
            )
        return joined(found)

    def members(self) -> list[Member]:
        members = super().members()
        needs = [member.needs for member in members]
        read = {
            "student_taps": {name.removesuffix(PRE) for one in needs for name in one.student},
            "teacher_taps": {name.removesuffix(PRE) for one in needs for name in one.teacher},
        }
        for option, names in read.items():
            unread = [tap for tap in getattr(self.recipe, option) if tap not in names]
            if unread:
                flag = f"--{option.replace('_', '-')}"
                raise UnderstudyError(f"no method reads the layer {unread[0]!r} of {flag}; leave it out")
        return members

    def contract(self) -> InputContract:
        """Of data without labels a student learns the teachers' classes; where none are learned it has none."""
        contract = for_crops(self.data.contract(self.recipe.student_modality), self.recipe)
        if not self._trains_classes:
            return replace(contract, classes=())
        return contract if contract.classes else replace(contract, classes=self.teacher_classes)

    @property
    def teacher_classes(self) -> tuple[str, ...]:
        """The classes that all teachers know, in one order."""
        if self.store is not None:
            return self.store.manifest.classes if self.store.shapes[0].classes else ()
        known = {network.classes for network in self.teachers.values()}
        return known.pop() if len(known) == 1 else ()

    def adapt(self, terms: Sequence[Term], network: Network, seed: int) -> None:
        for term in terms:
            if not OBJECTIVES[term.name].reuses_classifier or {"student_tap", "teacher_tap"} & term.options.keys():
                continue
            teachers = list(self.teachers.values())
            if len(teachers) != 1 or not isinstance(teachers[0], Network):
                raise UnderstudyError(f"{term.name} reuses the classifier of one teacher; name one with --teacher")
            try:
                reuse_classifier(network, teachers[0], term.options.get("factor", 2), seed)
            except ValueError as error:
                raise UnderstudyError(f"{term.name}: {error}") from error

    def objective(self, terms: Sequence[Term], network: Network, seed: int) -> Objective:
        try:
            return super().objective(terms, network, seed)
        except UnderstudyError as error:
            if self.store is None or any(shapes.features for shapes in self.store.shapes):
                raise
            raise UnderstudyError(
                f"{error}; {self.recipe.targets} has none of its layers: label the data again with --features"
            ) from error

    def first_stage(self, objective: Objective) -> FirstStage | None:
        return None if self.recipe.initial_epochs == 0 or self.recipe.steps == 0 else objective.first_stage()

    def build_contexts(self, terms: Sequence[Term], network: Network) -> list[BuildContext]:
        reading = next((term.name for term in terms if term.needs_classes), None)
        if reading is not None and self.store is not None and not self.store.shapes[0].classes:
            raise UnderstudyError(
                f"{self.recipe.targets} has no logits, which {reading} reads; learn from its embeddings with --method "
                "represent, say, or label the data with a teacher of its classes"
            )
        if all(term.reads_logits_alone for term in terms):
            return super().build_contexts(terms, network)
        train, student = self.data.train, network.shapes(self.recipe.student_taps or None)
        if self.store is not None:
            shapes = self.store.shapes
        else:
            shapes = [teacher.shapes(self.recipe.teacher_taps or None) for teacher in self.teachers.values()]
        classifiers = [teacher.classifier for teacher in self.teachers.values()]
        classifiers = classifiers if len(classifiers) == len(shapes) else [None] * len(shapes)
        return [
            BuildContext(student, teacher, train.ids, train.targets, classifier)
            for teacher, classifier in zip(shapes, classifiers, strict=True)
        ]

    def evaluation_teacher(self, device: torch.device) -> LiveTeacher | None:
        test = self.data.test
        if test is not None and not all(can_read(test, network) for network in self.teachers.values()):
            return None
        if test is not None and any(network.classes != test.classes for network in self.teachers.values()):
            return None
        return self.live_teacher(device)

    @property
    def gallery_temperature(self) -> float | None:
        return self.recipe.temperature
