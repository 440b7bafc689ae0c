"""The training loop: one stream of batches and one teacher pass for all members of a cohort."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor

from understudy.config.recipe import Recipe
from understudy.data.loader import BatchLoader
from understudy.errors import Diverged, Interrupted, UnderstudyError
from understudy.signals import Batch, Signals
from understudy.training.ahead import AnswersAhead, steps_together
from understudy.training.checkpoint import read_newest, write_checkpoint
from understudy.training.graph import GraphedStep, make_step
from understudy.training.interrupt import StopFlag, stop_flag
from understudy.training.logging import Callback, Row
from understudy.training.lr_schedule import learning_rate
from understudy.training.member import Member, with_prefix
from understudy.training.step import EagerStep
from understudy.training.timing import StepTimer

_CHECK_EVERY = 50  # steps between checks for non-finite losses, as reading a loss synchronizes a GPU


@dataclass
class Loop:
    """Trains a cohort, from its newest checkpoint if there is one.

    The learning rate is a pure function of the step: update `step` of `steps` uses
    `learning_rate(recipe.optimizer, step, steps)` for all members, however often the run was resumed. No optimizer
    or scheduler state takes part in it.

    Attributes:
        validate: member -> accuracy on the validation part; None without one.
        folder: for checkpoints; None to write none.
        callbacks: loggers and the like; none on ranks other than the first.
        label: names the run in the message of `Interrupted`.
        followed: whether another loop follows, so that a signal stops after the last update too.
        watch: member -> what it makes of samples that it is not trained on, at the end of each epoch; None for nothing.
        starts_well: whether the weights of the start count among the best on the validation part.
        pause: stop as by a signal, of number 0, after the first update and its checkpoint.
        timer: time of the teacher and of each member; available once the loop runs.
    """

    fabric: Fabric
    members: list[Member]
    batches: BatchLoader
    recipe: Recipe
    teacher: Callable[[Batch], Signals] | None = None
    validate: Callable[[Member], float] | None = None
    folder: Path | None = None
    callbacks: Sequence[Callback] = ()
    label: str = ""
    pause: bool = False
    starts_well: bool = False
    followed: bool = False
    watch: Callable[[Member], Row] | None = None
    timer: StepTimer = field(init=False)
    _epoch: int = 0
    _step_in_epoch: int = 0
    _epochs_without_improvement: int = 0
    _make_update: EagerStep | GraphedStep = field(init=False)
    _stream: Callable[[int, int], Iterator[Batch]] = field(init=False)

    @property
    def steps(self) -> int:
        """The total number of updates."""
        return self.recipe.epochs * self.batches.steps if self.recipe.steps is None else self.recipe.steps

    def run(self) -> int:
        """Train to the end; returns the number of updates made, over all runs.

        Raises `Interrupted` if a signal requested a stop, after writing a checkpoint, and `Diverged` if a loss became
        NaN or infinite.
        """
        devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), stop_flag() as flag:
            for member in self.members:
                member.setup(self.fabric, self.recipe.micro_batch)
                member.learner.train()
            names = [*(["teacher"] if self.teacher is not None else []), *(member.name for member in self.members)]
            self.timer = StepTimer(names, self.fabric.device)
            self._load_checkpoint()
            teacher, self._stream = self._ahead()
            eager = EagerStep(self.fabric, self.members, self.timer, teacher, self.recipe.micro_batch)
            self._make_update = make_step(eager)
            for callback in self.callbacks:
                callback.on_train_start(self._step, self.steps)
            try:
                self._train(flag)
            finally:
                for callback in self.callbacks:
                    callback.on_train_end()
        return self._step

    @property
    def _step(self) -> int:
        return min(self._epoch * self.batches.steps + self._step_in_epoch, self.steps)

    @property
    def _done(self) -> bool:
        patience = self.recipe.patience
        stop_early = patience is not None and self._epochs_without_improvement >= patience
        return stop_early or self._step == self.steps

    def _train(self, flag: StopFlag) -> None:
        saved = time.monotonic()
        stream = self._stream(self._step, self.steps)
        while not self._done:
            batch = next(stream)
            checkpoint_due = time.monotonic() - saved >= self.recipe.checkpoint_every
            signal_number, samples, checkpoint_due = self._sync_ranks(flag.number, len(batch), checkpoint_due)
            self._update(batch, samples)
            self._step_in_epoch += 1
            if self._step_in_epoch == self.batches.steps or self._step == self.steps:
                self._end_epoch()
                signal_number = signal_number or (flag.number if self.fabric.world_size == 1 else 0)
            if (signal_number or checkpoint_due or self.pause) and not self._done:
                self._save_checkpoint()
                saved = time.monotonic()
                if signal_number or self.pause:
                    raise Interrupted(self.label, self._step, signal_number or flag.number)
        self._save_checkpoint()
        signal_number = self._sync_ranks(flag.number, 0, False)[0] if self.followed else 0
        if self.pause or signal_number:
            raise Interrupted(self.label, self._step, signal_number or flag.number)

    def _ahead(self) -> tuple[Callable[[Batch], Signals] | None, Callable[[int, int], Iterator[Batch]]]:
        """The teacher and the stream of batches: of several steps at once on accelerators, if there is room.

        On a CPU that would gain nothing, and the last bits of the teacher's answers depend on the size of a batch.
        """
        together = steps_together(self.batches) if self.fabric.device.type == "cuda" else 1
        if together == 1:
            return self.teacher, self.batches.stream
        self.batches.together = together
        if self.teacher is None:
            return None, self.batches.stream
        ahead = AnswersAhead(self.fabric, self.batches, self.teacher, together, self.timer)
        return ahead, ahead.stream

    def _sync_ranks(self, signal_number: int, samples: int, checkpoint_due: bool) -> tuple[int, int, bool]:
        """Agree on a step: the signal of any rank or 0, the samples on all ranks, and whether a checkpoint is due.

        The first rank's clock decides on the checkpoint. The samples are 0, to skip the update, if one rank has none:
        fewer are left than there are ranks, or all of its samples were unreadable.
        """
        if self.fabric.world_size == 1:
            return signal_number, samples, checkpoint_due
        due = checkpoint_due and self.fabric.global_rank == 0
        total = torch.tensor([signal_number, signal_number > 0, samples, samples == 0, due], device=self.fabric.device)
        dist.all_reduce(total)
        signal_sum, signaled, samples, empty, due = total.tolist()
        return signal_sum // max(signaled, 1), 0 if empty else samples, bool(due)

    def _update(self, batch: Batch, samples: int) -> None:
        """One update of each member."""
        if samples < min(2, self.recipe.batch_size):  # the others were unreadable; a sample alone has no variance
            return
        step = self._step
        lr = learning_rate(self.recipe.optimizer, step, self.steps)
        epoch, epochs = int(self.batches.passes(step)) + 1, self.batches.passes(self.steps)
        for member in self.members:
            member.learner.objective.set_epoch(epoch, epochs)
        self._make_update(batch, samples, step, lr)
        if step % _CHECK_EVERY == _CHECK_EVERY - 1:
            self._check_finite()
            self.timer.read()
        for callback in self.callbacks:
            callback.on_step_end(step + 1, samples, lambda: self._metrics(step + 1))

    def _check_finite(self) -> None:
        """Raise if a loss on any rank was NaN or infinite, or a batch was at fault, before anything is saved."""
        for member in self.members:
            member.check()
        if self.fabric.world_size > 1:
            dist.all_reduce(self._make_update.first_nonfinite, dist.ReduceOp.MAX)
        for member, step in zip(self.members, self._make_update.first_nonfinite.tolist(), strict=True):
            if step >= 0:
                lr = learning_rate(self.recipe.optimizer, step, self.steps)
                raise Diverged(
                    f"the loss of {member.name} became NaN or infinite at step {step:,}, at learning rate {lr:.3g}; "
                    f"try --lr {self.recipe.optimizer.lr / 3:.2g}, --clip 1, a longer --warmup, or --precision 32"
                )

    def _over_ranks(self, sums: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return sums
        total = sums.clone()
        dist.all_reduce(total)
        return total

    def _metrics(self, step: int) -> list[Row]:
        lr = learning_rate(self.recipe.optimizer, max(step - 1, 0), self.steps)
        common = {"step": step, "epoch": self.batches.passes(step), "lr": lr}
        return [common | {"member": m.name, "part": "train"} | m.mean_metrics() for m in self.members]

    def _end_epoch(self) -> None:
        self._check_finite()
        self._epoch, self._step_in_epoch = self._epoch + 1, 0
        for member in self.members:
            member.metrics.values = self._over_ranks(member.metrics.values)
        rows = self._metrics(self._step)
        for member in self.members:
            member.metrics.values.zero_()
        if self.validate is not None:
            improved = False
            for member in self.members:
                accuracy = self.validate(member)
                rows.append({"step": self._step, "epoch": rows[0]["epoch"], "member": member.name}
                            | {"part": "validation", "accuracy": accuracy})  # fmt: skip
                if self.recipe.patience is not None:
                    improved |= member.keep_if_best(accuracy)
            self._epochs_without_improvement = 0 if improved else self._epochs_without_improvement + 1
        if self.watch is not None:
            common = {"step": self._step, "epoch": rows[0]["epoch"]}
            rows += [common | {"member": member.name} | self.watch(member) for member in self.members]
        for callback in self.callbacks:
            callback.on_epoch_end(rows)

    def _save_checkpoint(self) -> None:
        if self.folder is None:
            return
        self._check_finite()
        # on every rank, as sharded banks are gathered for it
        tensors = {f"{m.name}/{k}": v for m in self.members for k, v in m.state_dict().items()}
        tensors |= {f"{m.name}/metrics": self._over_ranks(m.metrics.values) for m in self.members}
        if self.fabric.global_rank != 0:
            return
        facts = {"epoch": self._epoch, "step_in_epoch": self._step_in_epoch,
                 "epochs_without_improvement": self._epochs_without_improvement,
                 "step": self._step, "cost": self.timer.read()}  # fmt: skip
        write_checkpoint(self.folder, self._step, tensors, facts)

    def _judge_start(self) -> None:
        if self.starts_well and self.validate is not None and self.recipe.patience is not None:
            for member in self.members:
                member.keep_if_best(self.validate(member))

    def _load_checkpoint(self) -> None:
        checkpoint = read_newest(self.folder) if self.folder is not None else None
        if checkpoint is None:
            self._judge_start()
            return
        tensors, facts = checkpoint
        self._epoch = facts["epoch"]
        self._step_in_epoch = min(facts["step_in_epoch"], self.batches.steps - 1)  # of data that has become smaller
        self._epochs_without_improvement = facts["epochs_without_improvement"]
        self.timer.restore(facts["cost"])
        for member in self.members:
            try:
                member.load_state_dict(with_prefix(tensors, f"{member.name}/"))
            except RuntimeError as fault:
                raise UnderstudyError(
                    f"the checkpoints in {self.folder} do not fit {member.name} ({str(fault).splitlines()[-1].strip()})"
                    ", as where a memory bank is for another number of samples; restore the data, or start a new run"
                ) from fault
            if self.fabric.global_rank > 0:
                member.metrics.values.zero_()  # the first rank continues from the sums of all
