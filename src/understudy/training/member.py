"""The students of a cohort, which train side by side on the same batches and teacher outputs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from understudy.config.options import OptimizerConfig
from understudy.data.loader import count_batches
from understudy.errors import UnderstudyError
from understudy.models import Network, to_channels_last
from understudy.objectives import FirstStage, Needs, Objective, ddp_ignored_buffers, synchronize_batch_norm
from understudy.objectives.batch_norm import average_running_statistics
from understudy.randomness import name_key, seed_of
from understudy.signals import Batch, Signals
from understudy.training.optimizer import counted_together, limit_norms, make_optimizer, update_ema


class Learner(nn.Module):
    """A student with its objective: the module that is wrapped for data parallelism, so that projectors train too."""

    def __init__(self, network: Network, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, batch: Batch, teacher: Signals | None) -> tuple[Tensor, Tensor]:
        """The loss, and the student's logits (detached)."""
        student = self.network(batch)
        try:
            loss = self.objective(student, teacher, batch)
        except ValueError as error:  # objectives can be used without this package, so they raise plain ValueErrors
            raise UnderstudyError(str(error)) from error
        return loss, student.logits.detach()


@dataclass
class EpochMetrics:
    """Running sums over the samples of an epoch, kept on the device.

    >>> metrics = EpochMetrics(torch.tensor([5.0, 8.0, 10.0, 9.0, 10.0]))
    >>> metrics.compute(uses_teacher=True)
    {'loss': 0.5, 'accuracy': 0.8, 'agreement': 0.9}
    """

    values: Tensor  # loss, correct, labeled, agreeing, samples

    def update(self, loss: Tensor, logits: Tensor, batch: Batch, teacher: Signals | None) -> None:
        zero = torch.zeros((), device=logits.device, dtype=torch.int64)
        count = len(batch)
        if not logits.shape[1]:  # a network without classes
            self.values += torch.stack([loss.detach().double() * count, zero, zero, zero, torch.full_like(zero, count)])
            return
        predictions = logits.argmax(1)
        labeled = zero if batch.targets is None else (batch.targets >= 0).sum()
        correct = zero if batch.targets is None else (predictions == batch.targets).sum()
        if batch.partners is not None and batch.weight is not None:  # mixed inputs count for their two classes
            own, other = predictions == batch.targets, predictions == batch.partners
            correct = torch.where(own, batch.weight, 0.0).sum() + torch.where(other, 1 - batch.weight, 0.0).sum()
        same = teacher is not None and teacher.logits.shape == logits.shape
        agreeing = (predictions == predictions_of(teacher)).sum() if teacher is not None and same else zero
        sums = loss.detach().double() * count, correct, labeled, agreeing, torch.full_like(zero, count)
        self.values += torch.stack(sums)

    def compute(self, uses_teacher: bool) -> dict[str, float]:
        """Mean loss, accuracy if there were labels, and agreement with the teacher if it is used."""
        loss, correct, labeled, agreeing, samples = self.values.tolist()
        metrics = {"loss": loss / max(samples, 1)}
        if labeled:
            metrics["accuracy"] = correct / labeled
        if uses_teacher:
            metrics["agreement"] = agreeing / max(samples, 1)
        return metrics


@dataclass
class Member:
    """One student of the cohort, with its own objective, optimizer and metrics.

    Attributes:
        name: "alone-0", "distilled-2", ...: the role and the number of the initialization.
        seed: of dropout and of all other random numbers that an update draws.
        uses_teacher: whether the teacher's outputs are passed to its objective.
        compared: whether the teacher predicts the network's classes, so that they may agree.
        module: the learner as wrapped by Fabric.
        best: the highest validation accuracy and its weights, if training stops early.
        norms: the network's BatchNorm layers.
        first: what trains in a stage before, of a method of two stages; the learner has the loss of the second.
        rate: factor of the learning rate.
    """

    name: str
    role: str
    seed: int
    learner: Learner
    optimizer_config: OptimizerConfig
    uses_teacher: bool
    compared: bool = True
    optimizer: Any = None
    module: Any = None
    ema: Network | None = None
    best: tuple[float, dict[str, Tensor]] | None = None
    metrics: EpochMetrics = field(default_factory=lambda: EpochMetrics(torch.zeros(5, dtype=torch.float64)))
    norms: list[_BatchNorm] = field(default_factory=list)
    first: FirstStage | None = None
    rate: float = 1.0

    @property
    def network(self) -> Network:
        """The trained network: the moving average if one is kept."""
        return self.ema if self.ema is not None else self.learner.network

    @property
    def needs(self) -> Needs:
        """What its losses read, of all stages."""
        second = self.learner.objective.needs
        return second if self.first is None else second | self.first.objective.needs

    def setup(self, fabric: Fabric, micro_batch: int | None = None) -> None:
        """Build the optimizer and move everything to the device.

        With several ranks, BatchNorm is over the samples of all of them. With micro-batches, of which ranks may have
        different numbers, it is over those of a forward pass, as in one process.
        """
        to_channels_last(self.learner, fabric.device)
        network = self.learner.network
        network.dropout_seed = seed_of(self.seed, name_key("dropout"))
        if self.optimizer_config.ema is not None:
            self.ema = copy.deepcopy(network.watch(())).eval().requires_grad_(False)
        network.watch(self.learner.objective.needs.student)
        self.norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
        if micro_batch is None:
            synchronize_batch_norm(self.learner)
        ignored = ddp_ignored_buffers(self.learner)
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.learner, ignored)
        optimizer = make_optimizer(self.learner, self.optimizer_config)
        self.module, self.optimizer = fabric.setup(self.learner, optimizer, move_to_device=False)  # it is there
        self.metrics = EpochMetrics(torch.zeros(5, dtype=torch.float64, device=fabric.device))

    def step(
        self, fabric: Fabric, batch: Batch, teacher: Signals | None, lr: float | Tensor, samples: int,
        micro_batch: int | None,
    ) -> Tensor:  # fmt: skip
        """Make one update on this rank's part of a batch of `samples` on all ranks; returns this rank's loss.

        Micro-batches, of `micro_batch` samples per forward pass or fewer at last, but not of a single one, are weighted
        by their size, so that the gradient is that of the mean over the whole batch.
        """
        config = self.optimizer_config
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self.rate == 1 else lr * self.rate
        size = micro_batch or len(batch)
        count = count_batches(len(batch), size)
        whole = count == 1
        losses: list[Tensor] = []
        for index in range(count):
            last = index == count - 1
            rows = slice(index * size, len(batch) if last else (index + 1) * size)
            part = batch if whole else batch[rows]
            teacher_out = teacher if whole or teacher is None else teacher[rows]
            with fabric.no_backward_sync(self.module, enabled=not last):
                with counted_together(self.norms):
                    loss, logits = self.module(part, teacher_out)
                # gradients are averaged over the ranks: weight by the share of the whole batch times their number
                share = len(part) * fabric.world_size / samples
                fabric.backward(loss if share == 1 else loss * share)
            self.metrics.update(loss, logits, part, teacher_out)
            losses.append(loss.detach() if whole else loss.detach() * (len(part) / len(batch)))
        if config.clip is not None:
            fabric.clip_gradients(self.module, self.optimizer, max_norm=config.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if micro_batch is not None:
            average_running_statistics(self.learner)
        if config.max_norm is not None:
            limit_norms(self.learner.network.module, config.max_norm)
        if self.ema is not None and config.ema is not None:
            update_ema(self.ema, self.learner.network, config.ema)
        return losses[0] if whole else torch.stack(losses).sum()

    def mean_metrics(self) -> dict[str, float]:
        """The metrics of the epoch so far."""
        return self.metrics.compute(self.uses_teacher and self.compared)

    def check(self) -> None:
        """Raise if an objective found fault with a batch since the last check; see `Objective.check`."""
        try:
            for part in self.learner.objective.modules():
                if isinstance(part, Objective):
                    part.check()
        except ValueError as error:
            raise UnderstudyError(str(error)) from error

    def state_dict(self) -> dict[str, Tensor]:
        """All state that a resumed run needs, as flat tensors."""
        state = {f"learner.{k}": v for k, v in self.learner.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items() if v is not None}
        if self.ema is not None:
            state |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        if self.best is not None:
            state |= {f"best.{k}": v for k, v in self.best[1].items()}
            state["best_accuracy"] = torch.tensor(self.best[0], dtype=torch.float64)
        return state | {"metrics": self.metrics.values}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.learner.load_state_dict(with_prefix(state, "learner."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in with_prefix(state, "optimizer.").items():
            index, key = name.split(".", 1)
            slots.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        # fused optimizers need their state in the memory format of the parameters
        for parameter, slot in self.optimizer.state.items():
            slot |= {k: torch.empty_like(parameter).copy_(v) for k, v in slot.items() if v.shape == parameter.shape}
        if self.ema is not None:
            self.ema.load_state_dict(with_prefix(state, "ema."))
        if "best_accuracy" in state:
            self.best = (float(state["best_accuracy"]), with_prefix(state, "best."))
        self.metrics.values.copy_(state["metrics"])

    def keep_if_best(self, accuracy: float) -> bool:
        """Keep a copy of the weights if this is the best validation accuracy so far; returns whether it is."""
        if self.best is not None and accuracy <= self.best[0]:
            return False
        self.best = (accuracy, {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()})
        return True


def predictions_of(teacher: Signals) -> Tensor:
    """(B,) the classes that a teacher predicts, found once for all students of a step."""
    return teacher.once("predictions", lambda: teacher.logits.argmax(1))


def with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names start with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
