"""The loop: one stream of batches and one teacher pass for every member of the cohort."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor

from understudy.data.batches import Batches
from understudy.errors import Diverged, Interrupted
from understudy.randomness import seed_of
from understudy.recipe import Recipe
from understudy.signals import Batch, Signals
from understudy.training.checkpoints import read_newest, write_checkpoint
from understudy.training.cohort import Member
from understudy.training.laps import Laps
from understudy.training.schedules import learning_rate
from understudy.training.stopping import StopFlag, stop_flag

_WATCH_EVERY = 50  # steps between looks at the losses: reading one makes a GPU wait


class Watcher(Protocol):
    """Who is told how the training goes: progress bars, metrics files, trackers."""

    def begin(self, step: int, steps: int) -> None: ...
    def step(self, step: int, samples: int, rows: Callable[[], list[dict[str, Any]]]) -> None: ...
    def epoch(self, rows: list[dict[str, Any]]) -> None: ...
    def end(self) -> None: ...


@dataclass
class Loop:
    """Trains a cohort. `run()` returns the number of updates made.

    Attributes:
        teacher: batch -> Signals, or None.
        validate: gives each member's accuracy on the validation part; None without one.
        folder: where checkpoints lie (a `pathlib.Path`), or None to keep none.
        label: how to name the run when it is stopped.
        laps: what the teacher and each member cost; made when the loop runs.
    """

    fabric: Fabric
    members: list[Member]
    batches: Batches
    recipe: Recipe
    teacher: Callable[[Batch], Signals] | None = None
    validate: Callable[[Member], float] | None = None
    folder: Any = None
    watcher: Watcher | None = None
    label: str = ""
    laps: Laps = field(init=False)
    _epoch: int = 0
    _in_epoch: int = 0
    _stale: int = 0
    _bad: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def steps(self) -> int:
        return self.recipe.steps or self.recipe.epochs * self.batches.steps

    def run(self) -> int:
        devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), stop_flag() as flag:
            for member in self.members:
                member.prepare(self.fabric)
                member.learner.train()
            self._bad = torch.full((len(self.members),), -1, dtype=torch.int64, device=self.fabric.device)
            names = [*(["teacher"] if self.teacher is not None else []), *(member.name for member in self.members)]
            self.laps = Laps(names, self.fabric.device)
            self._restore()
            if self.watcher:
                self.watcher.begin(self._step, self.steps)
            try:
                self._epochs(flag)
            finally:
                if self.watcher:
                    self.watcher.end()
        return self._step

    @property
    def _step(self) -> int:
        return min(self._epoch * self.batches.steps + self._in_epoch, self.steps)

    def _epochs(self, flag: StopFlag) -> None:
        saved = time.monotonic()
        stream = self.batches.stream(self._step, self.steps)
        while not self._over:
            batch = next(stream)
            due = time.monotonic() - saved >= self.recipe.checkpoint_every
            asked, samples, due = self._agree(flag.number, len(batch), due)
            self._update(batch, samples)
            self._in_epoch += 1
            if self._in_epoch == self.batches.steps or self._step == self.steps:
                self._end_epoch()
                asked = asked or (flag.number if self.fabric.world_size == 1 else 0)
            if (asked or due) and not self._over:
                self._save()
                saved = time.monotonic()
                if asked:
                    raise Interrupted(self.label, self._step, asked)
        self._save()

    @property
    def _over(self) -> bool:
        exhausted = self.recipe.patience is not None and self._stale >= self.recipe.patience
        return exhausted or self._step == self.steps

    def _agree(self, asked: int, here: int, due: bool) -> tuple[int, int, bool]:
        """Whether any rank was asked to stop, how many samples the ranks hold together, and whether to save.

        No samples where one rank has nothing to add (fewer are left than there are ranks, or all of its own
        were unreadable): ranks make an update together or not at all. Whether a checkpoint is due is for the
        first rank's clock to say.
        """
        if self.fabric.world_size == 1:
            return asked, here, due
        shared = torch.tensor(
            [asked, asked > 0, here, here == 0, due and self.fabric.global_rank == 0], device=self.fabric.device
        )
        dist.all_reduce(shared)
        asked, askers, samples, empty, due = shared.tolist()
        return asked // max(askers, 1), 0 if empty else samples, bool(due)

    def _update(self, batch: Batch, samples: int) -> None:
        if samples == 0:
            return
        step = self._step
        self.laps.mark()
        hints = None
        if self.teacher is not None:
            with self.fabric.autocast():
                hints = self.teacher(batch)
            self.laps.mark("teacher")
        losses: dict[str, Tensor] = {}
        for member in self._turns(step):
            _seed(seed_of(member.seed, step), self.fabric.device)
            rate = learning_rate(self.recipe.optimizer, step, self.steps)
            hint = hints if member.taught else None
            losses[member.name] = member.step(self.fabric, batch, hint, rate, samples, self.recipe.micro_batch)
            self.laps.mark(member.name)
        self.laps.count(len(batch))
        finite = torch.isfinite(torch.stack([losses[member.name] for member in self.members]))
        self._bad = torch.where(finite | (self._bad >= 0), self._bad, step)
        if step % _WATCH_EVERY == _WATCH_EVERY - 1:
            self._check()
            self.laps.read()
        if self.watcher:
            self.watcher.step(step + 1, samples, lambda: self._rows(step + 1))

    def _turns(self, step: int) -> list[Member]:
        """The members in an order that changes from step to step, the same on every rank.

        Nothing that is learnt depends on it. But who comes after a member that used much memory finds the caches
        empty: with turns taken, that falls on all alike and not always on the same one's time.
        """
        return Random(step).sample(self.members, len(self.members))

    def _check(self) -> None:
        """A loss that is NaN or infinite on any rank ends the run, before anything of it is saved."""
        if self.fabric.world_size > 1:
            dist.all_reduce(self._bad, dist.ReduceOp.MAX)
        for member, step in zip(self.members, self._bad.tolist(), strict=True):
            if step >= 0:
                rate = learning_rate(self.recipe.optimizer, step, self.steps)
                raise Diverged(
                    f"the loss of {member.name} became NaN or infinite at step {step:,}, at learning rate {rate:.3g}; "
                    f"try --lr {self.recipe.optimizer.lr / 3:.2g}, --clip 1, a longer --warmup, or --precision 32"
                )

    def _rows(self, step: int) -> list[dict[str, Any]]:
        rate = learning_rate(self.recipe.optimizer, max(step - 1, 0), self.steps)
        place = {"step": step, "epoch": self.batches.passes(step), "lr": rate}
        return [place | {"member": m.name, "part": "train"} | m.totals.means(m.taught) for m in self.members]

    def _end_epoch(self) -> None:
        self._check()
        self._epoch, self._in_epoch = self._epoch + 1, 0
        rows = self._rows(self._step)
        for member in self.members:
            member.totals.values.zero_()
        if self.validate is not None:
            better = False
            for member in self.members:
                accuracy = self.validate(member)
                rows.append({"step": self._step, "epoch": rows[0]["epoch"], "member": member.name}
                            | {"part": "validation", "accuracy": accuracy})  # fmt: skip
                if self.recipe.patience is not None:
                    better |= member.keep_if_best(accuracy)
            self._stale = 0 if better else self._stale + 1
        if self.watcher:
            self.watcher.epoch(rows)

    def _save(self) -> None:
        if self.folder is None:
            return
        self._check()
        # on every rank, as what is sharded is brought together for it
        tensors = {f"{m.name}/{k}": v for m in self.members for k, v in m.state().items()}
        if self.fabric.global_rank != 0:
            return
        place = {"epoch": self._epoch, "in_epoch": self._in_epoch, "stale": self._stale, "step": self._step}
        write_checkpoint(self.folder, self._step, tensors, place | {"cost": self.laps.read()})

    def _restore(self) -> None:
        found = read_newest(self.folder) if self.folder is not None else None
        if found is None:
            return
        tensors, facts = found
        self._epoch, self._in_epoch, self._stale = facts["epoch"], facts["in_epoch"], facts["stale"]
        self.laps.restore(facts["cost"])
        for member in self.members:
            own = f"{member.name}/"
            member.load({k.removeprefix(own): v for k, v in tensors.items() if k.startswith(own)})


def _seed(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the devices in use; it would look for every kind of accelerator, at each step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
