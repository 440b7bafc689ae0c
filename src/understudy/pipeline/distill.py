"""`distill`: a student trained on its teachers' soft targets, with the same student trained alone as the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar

import torch

from understudy.config.options import parse_pairs
from understudy.config.recipe import DistillRecipe
from understudy.data import Source, merged_unlabeled
from understudy.data.modalities import check_modality
from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network, build
from understudy.models.reuse import reuse_classifier
from understudy.objectives import OBJECTIVES, BuildContext, FirstStage, Objective
from understudy.panels.panel import SpecialistPanel
from understudy.pipeline.base import LiveTeacher, for_crops
from understudy.pipeline.device import slower_in_bf16
from understudy.pipeline.loss import Term, methods_of
from understudy.pipeline.modality import can_read, set_modality
from understudy.pipeline.run_data import open_parts
from understudy.pipeline.targets import Taught
from understudy.pipeline.weights import teacher_files, teachers_of
from understudy.teachers import Teacher, combine, match_classes
from understudy.training import Member

D = TypeVar("D", bound=DistillRecipe)


class Distill(Taught[D]):
    """Trains `student` by each method of the recipe, on the same batches and one pass of the teachers."""

    def check(self) -> None:
        super().check()
        methods_of(self.recipe)  # unknown names and options

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
            return merged_unlabeled(train, transfer)
        return transfer if transfer.classes == labeled.classes else replace(transfer, targets=None, classes=())

    @cached_property
    def teachers(self) -> dict[str, Network]:
        recipe, data = self.recipe, self.data
        networks: dict[str, Network] = {}
        for index, module in enumerate(self.overrides.teachers):
            network = networks[f"teacher-{index}"] = build(module, data.contract(recipe.teacher_modality))
            if not network.classes:  # neither the data nor the module names them
                names = map(str, range(network.shapes(()).classes))
                network.contract = replace(network.contract, classes=tuple(names))
        for name in self._teacher_names:
            contract = partial(data.contract, recipe.teacher_modality)
            networks |= teachers_of(name, contract, trust_code=self.overrides.trust_code)
        for network in networks.values():
            network.full_precision = slower_in_bf16(recipe, network)
        if not networks:
            return {}
        classes = data.labeled.classes or next(iter(networks.values())).classes
        for name, network in networks.items():
            match_classes(network, f"teacher {name}", classes)
            set_modality(network, f"teacher {name}", recipe.teacher_modality)
            check_modality(data.train, network.contract.modality)
        return networks

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
        methods = methods_of(self.recipe)
        losses = {"distilled" if len(methods) == 1 else f"distilled-{label}": terms for label, terms in methods.items()}
        baseline = self.recipe.baseline and self.data.train.targets is not None
        return {"alone": (Term("ce", 1.0),)} | losses if baseline else losses

    def members(self) -> list[Member]:
        members = super().members()
        needs = [member.needs for member in members]
        read = {
            "student_taps": {name for one in needs for name in one.student},
            "teacher_taps": {name for one in needs for name in one.teacher},
        }
        for option, names in read.items():
            unread = [tap for tap in getattr(self.recipe, option) if tap not in names]
            if unread:
                flag = f"--{option.replace('_', '-')}"
                raise UnderstudyError(f"no method reads the layer {unread[0]!r} of {flag}; leave it out")
        return members

    def contract(self) -> InputContract:
        """Of data without labels a student learns the teachers' classes."""
        contract = for_crops(self.data.contract(self.recipe.student_modality), self.recipe)
        if contract.classes:
            return contract
        return replace(contract, classes=self._known_classes)

    @property
    def _known_classes(self) -> tuple[str, ...]:
        """The classes that the teachers know."""
        if self.store is not None:
            return self.store.manifest.classes
        return next((network.classes for network in self.teachers.values()), ())

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
        return self.live_teacher(device)

    @property
    def gallery_temperature(self) -> float | None:
        return self.recipe.temperature
