"""A recipe that learns from teachers or from a store of their answers: what follows from it, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from understudy.config.options import AugmentationConfig
from understudy.config.recipe import DistillRecipe, SpecialistRecipe
from understudy.data import Source
from understudy.data.fingerprint import differences
from understudy.data.views import Views
from understudy.errors import UnderstudyError
from understudy.files import path_of
from understudy.panels.panel import SpecialistPanel
from understudy.pipeline.base import AnyTeacher, LiveTeacher, Pipeline, as_teacher
from understudy.pipeline.resumption import read_fingerprints
from understudy.pipeline.sampled import check_looks
from understudy.runs.folder import DATA
from understudy.teachers import Teacher, combine
from understudy.teachers.store import MANIFEST, Store, read_manifest

R = TypeVar("R", bound=DistillRecipe | SpecialistRecipe)
LABELED = "samples"
"""The part in the store's fingerprint of the data."""


class Taught(Pipeline[R]):
    """Trains on what teachers say in each step, or on their answers that are on the disk."""

    @cached_property
    def store(self) -> Store | None:
        """The teachers' answers, if they are on the disk."""
        targets = self.recipe.targets
        return None if targets is None else Store.open(path_of(targets, "the targets"))

    @property
    def views(self) -> Views:
        return super().views if self.store is None else self.store.views

    def teacher_notes(self) -> list[str]:
        if self.store is None:
            return super().teacher_notes()
        return [*super().teacher_notes(), f"learns from answers to {self.views.count} views, in {self.recipe.targets}"]

    def verify(self) -> None:
        if self.store is not None:
            check_store(self.store, self.data.train, super().views, self.live_teacher(torch.device("cpu")))

    @property
    def teacher_files(self) -> list[str]:
        return [] if self.recipe.targets is None else [str(Path(self.recipe.targets) / MANIFEST)]

    def teacher(self, device: torch.device) -> AnyTeacher | None:
        return self.live_teacher(device) if self.store is None else self.store.to(device)

    def live_teacher(self, device: torch.device) -> LiveTeacher | None:
        """The teachers themselves; None where only their answers are at hand."""
        frozen = [as_teacher(network, device) for network in self.teachers.values()]
        return self.combine(frozen) if frozen else None

    def combine(self, teachers: Sequence[Teacher | SpecialistPanel]) -> LiveTeacher:
        """Several teachers as one."""
        return combine(teachers)


def with_targets(recipe: R) -> R:
    """A recipe with the views of its targets: size, augmentation and MixUp, which must not be set to others.

    Raises:
        UnderstudyError: they are, or there are no targets.
    """
    if recipe.targets is None:
        return recipe
    path = path_of(recipe.targets, "the targets")
    config, updates = read_manifest(path).config, dict[str, Any]()
    kept = {"size": config.get("size"), "mixup": config.get("mixup", 0.0)}
    kept["augmentation"] = AugmentationConfig(**config.get("augmentation", {}))
    for name, value in kept.items():
        own, default = getattr(recipe, name), type(recipe).model_fields[name].default
        if own not in (default, value):
            raise UnderstudyError(
                f"{name} is {_plain(own)}, and {path} was made with {_plain(value)}; leave it out, or label the data "
                "again"
            )
        updates[name] = value
    return recipe.model_copy(update=updates)


def _plain(value: Any) -> str:
    if isinstance(value, AugmentationConfig):
        values = value.model_dump(exclude_defaults=True)
        return ", ".join(f"{name}={each}" for name, each in values.items()) or "the default"
    return str(value)


def check_store(store: Store, train: Source, views: Views, teacher: Any) -> None:
    """Check that a store has answers to the views of some samples as they are now.

    Args:
        views: by the recipe, but for their seed and count.
        teacher: on the CPU, where it is at hand.

    Raises:
        UnderstudyError: samples are missing or have changed, views differ, or it is of another teacher.
    """
    missing = ~torch.isin(train.ids, store.ids)
    if missing.any():
        row = int(missing.nonzero()[0])
        raise UnderstudyError(
            f"{int(missing.sum()):,} of the {len(train):,} samples of {train.name} have no answers in {store.path}, "
            f"e.g. {train.sample_name(row)}; label them: understudy label"
        )
    if store.manifest.shape != train.shape:
        here, there = ("x".join(map(str, shape)) for shape in (train.shape, store.manifest.shape))
        raise UnderstudyError(
            f"{train.name} has samples of {here}, and {store.path} was made of {there}; label the data again"
        )
    _check_views(store, train, views)
    known = read_fingerprints(store.path / DATA).get(LABELED)
    if known is not None:
        # answers depend neither on labels nor on what else was labeled
        before = replace(known.among(train.ids), classes=train.classes, targets=None)
        if changes := differences(before, replace(train, targets=None)):
            raise UnderstudyError(
                f"{train.name} has changed since {store.path} was made ({', '.join(changes)}); restore it, or label it "
                "again"
            )
    check_looks(store, train, teacher)


def _check_views(store: Store, train: Source, views: Views) -> None:
    known = asdict(store.views)
    own = asdict(replace(views, seed=store.views.seed, count=store.views.count))
    if known != own:
        differ = [name for name in known["augmentation"] if known["augmentation"][name] != own["augmentation"][name]]
        name = differ[0] if differ else "mixup"
        here, there = (one["augmentation"].get(name, one.get(name)) for one in (own, known))
        raise UnderstudyError(
            f"{name} is {here}, and {store.path} was made with {there}; leave it out, or label the data again"
        )
    if store.views.mixup and not torch.equal(train.ids, store.ids):
        raise UnderstudyError(
            f"{store.path} has answers to pairs of mixed samples, so it fits only all samples that were labeled; "
            "distill on all of them, or label these alone"
        )
