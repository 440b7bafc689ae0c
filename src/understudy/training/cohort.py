"""What the loop trains: students side by side on one stream of batches and one teacher pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from understudy.errors import UnderstudyError
from understudy.models import Network, laid_out
from understudy.objectives import Objective, kept_alike
from understudy.randomness import name_key, seed_of
from understudy.recipe import Optimizer
from understudy.signals import Batch, Signals


class Learner(nn.Module):
    """A student with its objective: what is wrapped for data parallelism, so that projectors are trained too."""

    def __init__(self, network: Network, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, batch: Batch, teacher: Signals | None) -> tuple[Tensor, Tensor]:
        student = self.network(batch)
        try:
            loss = self.objective(student, teacher, batch)
        except ValueError as fault:  # objectives know nothing of this package's errors; theirs say what to mend
            raise UnderstudyError(str(fault)) from fault
        return loss, student.logits.detach()


@dataclass
class Totals:
    """Sums over the samples since the epoch began, kept on the device."""

    values: Tensor  # loss, right, labelled, agreeing, samples

    def add(self, loss: Tensor, logits: Tensor, batch: Batch, teacher: Signals | None) -> None:
        said = logits.argmax(1)
        zero = torch.zeros((), device=said.device, dtype=torch.int64)
        labelled = zero if batch.targets is None else (batch.targets >= 0).sum()
        right = zero if batch.targets is None else (said == batch.targets).sum()
        if batch.partners is not None:  # mixed inputs are right in the share of each of their two classes
            right = batch.weight * right + (1 - batch.weight) * (said == batch.partners).sum()
        agreeing = zero if teacher is None else (said == teacher.logits.argmax(1)).sum()
        count = len(batch)
        self.values += torch.stack(
            [loss.detach().double() * count, right, labelled, agreeing, torch.full_like(zero, count)]
        )

    def means(self, taught: bool) -> dict[str, float]:
        loss, right, labelled, agreeing, samples = self.values.tolist()
        means = {"loss": loss / max(samples, 1)}
        if labelled:
            means["accuracy"] = right / labelled
        if taught:
            means["agreement"] = agreeing / max(samples, 1)
        return means


@dataclass
class Member:
    """One student of the cohort, with everything that is its own.

    Attributes:
        name: "alone-0", "distilled-2", ...: the role and the number of the initialisation.
        taught: whether its objective listens to the teacher.
    """

    name: str
    role: str
    seed: int
    learner: Learner
    recipe: Optimizer
    taught: bool
    optimizer: Any = None
    module: Any = None  # the learner as Fabric wrapped it
    average: Network | None = None
    best: tuple[float, dict[str, Tensor]] | None = None
    totals: Totals = field(default_factory=lambda: Totals(torch.zeros(5, dtype=torch.float64)))

    @property
    def network(self) -> Network:
        """The network that the training has reached: the moving average where one is kept."""
        return self.average if self.average is not None else self.learner.network

    def prepare(self, fabric: Fabric) -> None:
        """Make the optimiser and put everything on the device."""
        laid_out(self.learner, fabric.device)
        network = self.learner.network
        network.noise = seed_of(self.seed, name_key("dropout"))
        network.watch(self.learner.objective.needs.student)
        if self.recipe.ema is not None:
            self.average = copy.deepcopy(network.watch(())).eval().requires_grad_(False)
            network.watch(self.learner.objective.needs.student)
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.learner, kept_alike(self.learner))
        self.module, self.optimizer = fabric.setup(self.learner, make_optimizer(self.learner, self.recipe))
        self.totals = Totals(torch.zeros(5, dtype=torch.float64, device=fabric.device))

    def step(
        self, fabric: Fabric, batch: Batch, teacher: Signals | None, rate: float, samples: int, micro: int | None
    ) -> Tensor:
        """One update; returns this rank's loss. `samples` counts the batch over all ranks.

        Each micro-batch weighs as many samples as it has, so the gradient is that of the whole batch's mean.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        size = micro or len(batch)
        parts = range(0, len(batch), size)
        seen = torch.zeros((), device=batch.ids.device)
        for start in parts:
            rows = slice(start, start + size)
            whole = size >= len(batch)
            part = batch if whole else batch[rows]
            hint = teacher if whole or teacher is None else teacher[rows]
            with fabric.no_backward_sync(self.module, enabled=start + size < len(batch)):
                loss, logits = self.module(part, hint)
                # ranks are averaged: weigh by this part's share of the whole batch times their number
                fabric.backward(loss * (len(part) * fabric.world_size / samples))
            self.totals.add(loss, logits, part, hint)
            seen += loss.detach() * (len(part) / len(batch))
        if self.recipe.clip is not None:
            fabric.clip_gradients(self.module, self.optimizer, max_norm=self.recipe.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.recipe.max_norm is not None:
            limit_norms(self.learner.network, self.recipe.max_norm)
        if self.average is not None and self.recipe.ema is not None:
            average(self.average, self.learner.network, self.recipe.ema)
        return seen

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as flat tensors."""
        flat = {f"learner.{k}": v for k, v in self.learner.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            flat |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items() if v is not None}
        if self.average is not None:
            flat |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        if self.best is not None:
            flat |= {f"best.{k}": v for k, v in self.best[1].items()}
            flat["best_accuracy"] = torch.tensor(self.best[0], dtype=torch.float64)
        return flat | {"totals": self.totals.values}

    def load(self, flat: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.learner.load_state_dict(_under(flat, "learner."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(flat, "optimizer.").items():
            index, key = name.split(".", 1)
            slots.setdefault(int(index), {})[key] = value
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
        for parameter, kept in self.optimizer.state.items():  # fused optimisers read both in one order of memory
            kept |= {k: torch.empty_like(parameter).copy_(v) for k, v in kept.items() if v.shape == parameter.shape}
        if self.average is not None:
            self.average.load_state_dict(_under(flat, "average."))
        if "best_accuracy" in flat:
            self.best = (float(flat["best_accuracy"]), _under(flat, "best."))
        self.totals.values.copy_(flat["totals"])

    def keep_if_best(self, accuracy: float) -> bool:
        """Remember the weights if no earlier epoch's were as good on the validation part."""
        if self.best is not None and accuracy <= self.best[0]:
            return False
        self.best = (accuracy, {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()})
        return True


def _under(flat: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}


def make_optimizer(module: nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on matrices and kernels only."""
    trained = [p for p in module.parameters() if p.requires_grad]
    kernels = [p for p in trained if p.dim() > 1]
    returning = recipe.decay_to == "initial" and recipe.weight_decay > 0
    groups = [
        {"params": kernels, "weight_decay": 0.0 if returning else recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # fused updates undo the scale of fp16's gradients by themselves, after the hook has seen them
    fused = all(p.device.type in ("cpu", "cuda") for p in trained) and not returning
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    else:
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=fused)
    if returning:
        optimizer.register_step_pre_hook(_decay_to_initial(kernels, recipe))
    return optimizer


def _decay_to_initial(kernels: list[nn.Parameter], recipe: Optimizer) -> Callable[..., None]:
    """Weight decay towards what the weights are now, where the optimisers' own is towards zero (Li et al. 2018).

    A resumed run begins with the same weights before it reads its checkpoint, so that they need not be kept in it.
    """
    initial = [p.detach().clone() for p in kernels]

    @torch.no_grad()
    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rate = optimizer.param_groups[0]["lr"]
        for p, p0 in zip(kernels, initial, strict=True):
            if recipe.optimizer == "adamw":
                p.lerp_(p0, rate * recipe.weight_decay)
            elif p.grad is not None:
                p.grad.add_(p - p0, alpha=recipe.weight_decay)

    return before_step


@torch.no_grad()
def limit_norms(network: Network, largest: float) -> None:
    """Scale back every hidden unit's incoming weights to a norm of at most `largest` (Srivastava et al. 2014)."""
    layers = [m for m in network.module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer in layers[:-1]:
        norms = torch.linalg.vector_norm(layer.weight.flatten(1), dim=1)
        factors = (largest / norms.clamp_min(1e-12)).clamp_max(1.0)
        layer.weight.mul_(factors.view(-1, *[1] * (layer.weight.dim() - 1)))


@torch.no_grad()
def average(into: Network, of: Network, decay: float) -> None:
    """Move an average of the weights towards the weights; integer buffers are copied."""
    for kept, new in zip(into.state_dict().values(), of.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)
