"""`specialist`: one specialist of a panel, the generalist fine-tuned to tell a group of classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from understudy.config.recipe import SpecialistRecipe
from understudy.data import Source
from understudy.errors import UnderstudyError, nearest
from understudy.files import path_of, sha256
from understudy.models import InputContract, Network, load_network
from understudy.objectives import Objective, PartialKD, WeightedSum
from understudy.panels.head import narrow_head
from understudy.panels.sampling import SpecialistSampler, dustbin_name, with_dustbin
from understudy.pipeline.loss import Term
from understudy.pipeline.modality import set_modality
from understudy.pipeline.targets import Taught
from understudy.pipeline.train import Train
from understudy.runs.run import Run
from understudy.teachers.store import read_manifest


class Specialist(Taught[SpecialistRecipe], Train[SpecialistRecipe]):
    """Trains the generalist on a group's classes, all others in a dustbin class or, with soft targets, kept apart."""

    def open_data(self) -> tuple[Source, Source | None]:
        train, test = super().open_data()
        return self._relabeled(train), None if test is None or test.targets is None else self._relabeled(test)

    def _relabeled(self, source: Source) -> Source:
        group = self.recipe.group
        for name in group:
            if name not in source.classes:
                raise UnderstudyError(f"{source.name} has no class {name!r}{nearest(name, source.classes)}")
        if not 0 < len(set(group)) == len(group) < len(source.classes):
            raise UnderstudyError(
                f"a group must name distinct classes, fewer than the {len(source.classes)} of {source.name}; this one "
                f"names {len(group)}"
            )
        return source if self.recipe.soft else with_dustbin(source, group)

    def sampler(self, train: Source) -> SpecialistSampler:
        return SpecialistSampler.of(train, self.recipe.group, self.recipe.seed)

    @cached_property
    def teachers(self) -> dict[str, Network]:
        return {self.recipe.model: load_network(Path(self.recipe.model))} if self.recipe.soft else {}

    @property
    def teacher_files(self) -> list[str]:
        return [self.recipe.model, *super().teacher_files]

    def check(self) -> None:
        super().check()
        check_generalist(self.recipe.targets, Path(self.recipe.model))

    def network(self, contract: InputContract, number: int, *, several: bool) -> Network:
        path = Path(self.recipe.model)
        if self.recipe.soft:
            network = load_network(path)
            network.init_from = f"initialized from {path}, head of {len(network.classes)} classes kept"
            if network.classes != contract.classes:
                raise UnderstudyError(f"{path} has other classes than the data; give the generalist of this data")
        else:
            network = narrow_head(path, self.recipe.group, contract.classes[-1])
        set_modality(network, self.recipe.model, contract.modality)
        return network

    def objective(self, terms: Sequence[Term], network: Network, seed: int) -> Objective:
        """The labels, and beside them the generalist's soft targets for the classes outside of the group."""
        labels = super().objective(terms, network, seed)
        if not self.recipe.soft:
            return labels
        special = [network.classes.index(name) for name in self.recipe.group]
        rest = PartialKD(special, len(network.classes), self.recipe.temperature)
        return WeightedSum({"labels": (1.0, labels), "rest": (self.recipe.soft, rest)})

    def title(self, run: Run) -> str:
        return run.path.name  # several may run at a time


def check_generalist(targets: str | None, weights: Path) -> None:
    """Check that soft targets, if they are on the disk, are those of a generalist.

    Raises:
        UnderstudyError: they are of another network, or of several.
    """
    if targets is None:
        return
    path = path_of(targets, "the targets")
    if list(read_manifest(path).teachers.values()) != [sha256(weights)]:
        raise UnderstudyError(
            f"{path} does not hold the answers of the generalist {weights}; label the data with it: understudy label "
            f"... --teacher {weights}"
        )


def bias_correction(
    group: tuple[str, ...], classes: tuple[str, ...], log_oversampling: float, *, soft: bool
) -> tuple[str, ...]:
    """The class biases that undo the over-sampling of a group, as a recipe writes them.

    >>> bias_correction(("cat",), ("cat", "dog", "eel"), 0.5, soft=True)
    ('dog=+0.5', 'eel=+0.5')
    """
    others = [name for name in classes if name not in group] if soft else [dustbin_name(classes)]
    return tuple(f"{name}={log_oversampling:+.12g}" for name in others)
