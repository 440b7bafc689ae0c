"""Optimizers, and what is applied to the weights around their updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from understudy.config.options import OptimizerConfig
from understudy.errors import UnderstudyError


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build SGD or AdamW, with weight decay on parameters of two or more dimensions, or on all with `decay_norms`.

    >>> optimizer = make_optimizer(nn.Linear(4, 2), OptimizerConfig(name="sgd", lr=0.1, weight_decay=0.01))
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.01), (1, 0.0)]
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise UnderstudyError("the model has no weights to train; give one that has")
    kinds: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in trainable:
        kinds[config.decay_norms or parameter.dim() > 1].append(parameter)
    to_initial = decays_to_initial(config)
    decays = (kinds[True], 0.0 if to_initial else config.weight_decay), (kinds[False], 0.0)
    groups = [{"params": parameters, "weight_decay": decay} for parameters, decay in decays if parameters]
    # fused optimizers unscale fp16 gradients themselves, after the hook has read them
    fused = all(p.device.type in ("cpu", "cuda") for p in trainable) and not to_initial
    optimizer: torch.optim.Optimizer
    if config.name == "adamw":
        # else it refuses to be captured, although fused ones count their steps on the device
        capturable = fused and trainable[0].device.type == "cuda"
        optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=fused, capturable=capturable)
    else:
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    if all(p.device.type == "cpu" for p in trainable):
        # each step would look for an accelerator, loading NVIDIA's library anew, to see whether a graph is captured
        optimizer._accelerator_graph_capture_health_check = lambda: None
    if to_initial:
        optimizer.register_step_pre_hook(_decay_to_initial(kinds[True], config))
    return optimizer


def decays_to_initial(config: OptimizerConfig) -> bool:
    """Whether weights decay toward where they began, by a hook that reads the learning rate on the host."""
    return config.decay_to == "initial" and config.weight_decay > 0


def _decay_to_initial(parameters: list[nn.Parameter], config: OptimizerConfig) -> Callable[..., None]:
    """Weight decay toward the current weights instead of zero (L2-SP, Li et al. 2018).

    Checkpoints need not contain them: a resumed run starts from the same weights before it loads its checkpoint.
    """
    initial = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        lr = optimizer.param_groups[0]["lr"]
        for p, p0 in zip(parameters, initial, strict=True):
            if config.name == "adamw":
                p.lerp_(p0, lr * config.weight_decay)
            elif p.grad is not None:
                p.grad.add_(p - p0, alpha=config.weight_decay)

    return before_step


@torch.no_grad()
def limit_norms(module: nn.Module, max_norm: float) -> None:
    """Scale down the incoming weights of hidden units to a norm of at most `max_norm` (Srivastava et al. 2014).

    The last layer, the classifier, is not limited.

    >>> net = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1))
    >>> limit_norms(net, max_norm=0.001)
    >>> [round(norm, 4) for norm in net[0].weight.norm(dim=1).tolist()]
    [0.001, 0.001]
    """
    weights = [m.weight for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][:-1]
    if not weights:
        return
    norms = torch.cat([torch.linalg.vector_norm(weight.flatten(1), dim=1) for weight in weights])
    factors = (max_norm / norms.clamp_min(1e-12)).clamp_max(1.0)
    for weight, factor in zip(weights, factors.split([len(weight) for weight in weights]), strict=True):
        weight.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, decay: float) -> None:
    """`ema <- decay * ema + (1 - decay) * module` for all parameters and buffers; integer buffers are copied.

    >>> ema, module = nn.BatchNorm1d(1), nn.BatchNorm1d(1).requires_grad_(False)
    >>> update_ema(ema, module.apply(lambda m: m.weight.fill_(5.0)), decay=0.75)
    >>> ema.weight.item()
    2.0
    """
    moving, counts = [], []
    for average, value in zip(ema.state_dict().values(), module.state_dict().values(), strict=True):
        (moving if average.is_floating_point() else counts).append((average, value))
    if moving:
        averages, values = zip(*moving, strict=True)
        torch._foreach_lerp_(averages, values, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
    if counts:
        averages, values = zip(*counts, strict=True)
        torch._foreach_copy_(averages, values)  # pyright: ignore[reportPrivateImportUsage]


@contextmanager
def counted_together(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Count a training pass of BatchNorm layers in one operation for all of them, in place of one for each.

    >>> layer = nn.BatchNorm1d(1)
    >>> with counted_together([layer]):
    ...     _ = layer(torch.zeros(2, 1))
    >>> layer.num_batches_tracked.item()
    1
    """
    counted = [(layer, layer.num_batches_tracked) for layer in layers if layer.training]
    # averages over all passes, of no momentum, read the count
    counted = [(layer, count) for layer, count in counted if count is not None and layer.momentum is not None]
    try:
        for layer, _ in counted:
            layer.num_batches_tracked = None
        yield
    finally:
        for layer, count in counted:
            layer.num_batches_tracked = count
    if counted:
        torch._foreach_add_([count for _, count in counted], 1)  # pyright: ignore[reportPrivateImportUsage]
