"""The first stage of methods of two (ab, fsp, ft): what trains before the epochs that all members share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric

from understudy.config.options import OptimizerConfig
from understudy.config.recipe import DistillRecipe, Recipe
from understudy.data.loader import BatchLoader
from understudy.signals import Batch, Signals
from understudy.terminal import Terminal
from understudy.training import Callback, Learner, Loop, Member
from understudy.training.logging import ConsoleLogger, MetricsFile

_SHARE = 8  # an eighth of the other epochs, as the 30 before 240 of Tian et al. (2020)


def first_steps(recipe: DistillRecipe, batches: BatchLoader) -> int:
    """The updates of the first stage.

    An eighth of the others, or what `initial_epochs` says; at least one.
    """
    if recipe.initial_epochs is not None:
        return max(1, round(recipe.initial_epochs / batches.passes(1)))
    if recipe.steps is not None:
        return max(1, round(recipe.steps / _SHARE))
    return max(1, round(recipe.epochs / _SHARE)) * batches.steps


def steps_before(recipe: Recipe, members: Sequence[Member], batches: BatchLoader) -> int:
    """The updates of the first stage, if any member has one."""
    if not isinstance(recipe, DistillRecipe) or all(member.first is None for member in members):
        return 0
    return first_steps(recipe, batches)


@dataclass
class FirstStageRun:
    """Trains those members that have a first stage, in a loop of its own with its own checkpoints.

    Its learning rate is constant, and the optimizers of the second stage start anew. It is done once a run: as soon as
    the second stage has a checkpoint, all that it trained is in there. Its epochs are numbered after those of the
    second stage, so that the other members see the same views with and without it.

    Attributes:
        folder: of the run.
        title: of the run, for the console.
    """

    fabric: Fabric
    members: Sequence[Member]
    batches: BatchLoader
    recipe: Recipe
    teacher: Callable[[Batch], Signals] | None
    folder: Path
    title: str
    terminal: Terminal

    def train(self, *, quiet: bool = False, pause: bool = False) -> None:
        """Train what is to be trained first, from its newest checkpoint, and make it constant.

        Args:
            quiet: say nothing.
            pause: stop as by a signal after the first update.
        """
        two_staged = [member for member in self.members if member.first is not None]
        checkpoints = self.folder / "checkpoints"
        if two_staged and not any(checkpoints.glob("step-*.sha256")):
            self._train(two_staged, checkpoints / "first", quiet, pause)
        for member in two_staged:
            assert member.first is not None
            member.first.objective.requires_grad_(False)

    def _train(self, members: Sequence[Member], checkpoints: Path, quiet: bool, pause: bool) -> None:
        assert isinstance(self.recipe, DistillRecipe)
        recipe, batches = self.recipe, self.batches
        steps = first_steps(recipe, batches)
        optimizer = recipe.optimizer.model_copy(
            update={"schedule": "constant", "warmup": 0.0, "warmup_steps": None, "ema": None}
        )
        changes = {"optimizer": optimizer, "steps": steps, "patience": None}
        callbacks: list[Callback] = []
        if self.fabric.global_rank == 0:
            callbacks.append(MetricsFile(self.folder / "first-stage.jsonl"))
            callbacks += [] if quiet else [ConsoleLogger(f"{self.title}, first stage", self.terminal)]
        epochs = batches.passes(recipe.steps) if recipe.steps is not None else recipe.epochs
        batches.first_epoch = math.ceil(epochs)
        with _first(members, optimizer) as first:
            Loop(
                self.fabric, first, batches, recipe.model_copy(update=changes), self.teacher, folder=checkpoints,
                callbacks=callbacks, label=str(self.folder), pause=pause, followed=True,
            ).run()  # fmt: skip
        batches.first_epoch = 0


@contextmanager
def _first(members: Sequence[Member], optimizer: OptimizerConfig) -> Iterator[list[Member]]:
    """The members with the losses of their first stage, and with those weights alone that these depend on."""
    made, held = [], []
    for member in members:
        assert member.first is not None
        network, objective = member.learner.network, member.first.objective
        trained = {id(weight) for weight in network.behind(objective.needs.student)}
        idle = [weight for weight in network.parameters() if weight.requires_grad and id(weight) not in trained]
        held.append((network, network.frozen, idle))
        network.frozen |= not trained  # statistics of BatchNorm too
        for weight in idle:
            weight.requires_grad_(False)
        learner = Learner(network, objective)
        made.append(Member(member.name, member.role, member.seed, learner, optimizer, True, rate=member.first.rate))
    try:
        yield made
    finally:
        for network, frozen, idle in held:
            network.frozen = frozen
            for weight in idle:
                weight.requires_grad_(True)
